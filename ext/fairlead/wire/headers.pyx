"""Header lines, in both directions: kept as bytes, and read only when somebody asks.

Promise: a value goes on byte for byte or not at all, and is one line; two headers of which there may be one only are
refused.
"""

from collections.abc import Mapping

from libc.string cimport memchr

cdef enum:
    NAMES_MAX = 1024       # spellings of header names that are remembered
    NAME_MAX = 64          # bytes of such a name

# (name, in lower case, as a line begins), by the name as it was sent
cdef dict NAMES = {}
# Two of these would be two opinions.
cdef frozenset ONCE = frozenset((
    "content-length", "content-location", "content-range", "content-type", "etag", "host", "max-forwards", "server",
    "transfer-encoding", "user-agent",
))


class Refused(Exception):
    """A request that goes no further. code: one of the router's error codes; the connection is closed after it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


cdef class Headers:
    """A message's headers: a read-only, case-insensitive mapping. What is no UTF-8 comes back byte for byte when it is
    written."""

    def __init__(self):
        self.names = []
        self.values = []
        self.first = {}

    @property
    def pairs(self):
        return [(spelt[0], decoded(value)) for spelt, value in zip(self.names, self.values, strict=True)]

    cpdef get(self, name, default=None):
        value = self.first.get(name)  # most ask in lower case
        if value is None:
            value = self.first.get(name.lower())
        return default if value is None else decoded(value)

    def getall(self, name):
        lower = name.lower()
        return [decoded(value) for spelt, value in zip(self.names, self.values, strict=True) if spelt[1] == lower]

    def is_repeated(self, name):
        """Whether there is more than one of that name."""
        return self.repeated is not None and name.lower() in self.repeated

    def lines(self, frozenset passed not None, str prefix not None):
        """Those whose names (in lower case) are passed on, or begin with the prefix, as lines of a head."""
        cdef list lines = []
        cdef tuple spelt
        cdef bytes value
        cdef Py_ssize_t i
        for i in range(len(self.names)):
            spelt = self.names[i]
            if spelt[1] in passed or (<str> spelt[1]).startswith(prefix):
                value = self.values[i]
                if not is_one_line(value):
                    raise Refused("bad_request", f"the header {spelt[1]} holds CR, LF or NUL")
                lines.append(spelt[2])
                lines.append(value)
                lines.append(b"\r\n")
        return b"".join(lines)

    def items(self):
        return [(name, decoded(value)) for name, value in self.first.items()]

    def __getitem__(self, name):
        return decoded(self.first[name.lower()])

    def __contains__(self, name):
        return name.lower() in self.first

    def __iter__(self):
        return iter(self.first)

    def __len__(self):
        return len(self.first)

    cdef add(self, bytes name, bytes value):
        cdef tuple spelt = NAMES.get(name)
        cdef str text
        if spelt is None:
            text = name.decode("ascii")
            spelt = (text, text.lower(), name + b": ")
            if len(name) <= NAME_MAX and len(NAMES) < NAMES_MAX:
                NAMES[name] = spelt
        value = stripped(value)
        self.names.append(spelt)
        self.values.append(value)
        if spelt[1] not in self.first:
            self.first[spelt[1]] = value
            return
        if spelt[1] in ONCE:
            raise Refused("bad_request", f"the header {spelt[1]} is given twice: send it once")
        if self.repeated is None:
            self.repeated = set()
        self.repeated.add(spelt[1])


Mapping.register(Headers)


def whole_lines(bytes text not None):
    """Whether it is header lines of one head, each whole, or nothing; what a line says is not looked at."""
    cdef const char *at = text
    cdef const char *end = at + len(text)
    cdef const char *stop
    while at < end:
        stop = <const char *> memchr(at, c"\r", end - at)
        if stop == NULL or stop == at or stop[1] != c"\n":  # behind the end of a bytes object there is a NUL
            return False
        at = stop + 2
    return True


cdef str decoded(bytes value):
    return value.decode("utf-8", "surrogateescape")


cdef bytes stripped(bytes value):
    """Without the blanks at its end: llhttp takes off only those before it."""
    cdef Py_ssize_t size = len(value)
    if size and value[size - 1] in (32, 9):
        return value.rstrip(b" \t")
    return value


cdef bint is_one_line(bytes value) noexcept:
    cdef const unsigned char *text = value
    cdef Py_ssize_t i
    for i in range(len(value)):
        if text[i] == 13 or text[i] == 10 or text[i] == 0:
            return False
    return True
