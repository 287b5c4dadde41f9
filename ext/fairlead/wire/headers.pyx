"""Header lines, in both directions: kept as bytes, and read only when somebody asks.

Promise: a value goes on byte for byte or not at all, and is one line; two headers of which there may be one only are
refused.
"""

from sys import intern

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from libc.string cimport memchr

cdef enum:
    KEPT_MAX = 1024        # names as they were sent; a power of two
    NAME_MAX = 64          # bytes of such a name

cdef list kept = [None] * KEPT_MAX  # each in the one place that its bytes say: who finds another there takes it
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


def key_of(str name not None):
    """The name as value, has and is_repeated want it: two spellings of a name have one key, the same object."""
    return intern(name.lower())


cdef class Name:
    """A header's name as it was sent. The last question whether it is passed on is kept, with its answer."""


cdef Name name_of(bytes sent):
    cdef const unsigned char *text = <const unsigned char *> PyBytes_AS_STRING(sent)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(sent), i
    cdef uint32_t place = 2166136261  # FNV-1a
    cdef Name name
    for i in range(size):
        place = (place ^ text[i]) * 16777619
    place = (place ^ (place >> 16)) & (KEPT_MAX - 1)
    name = kept[place]
    if name is None or name.sent != sent:
        name = Name.__new__(Name)
        name.sent = sent
        name.spelt = sent.decode("ascii")
        name.key = key_of(name.spelt)
        name.line = sent + b": "
        name.once = name.key in ONCE
        if size <= NAME_MAX:
            kept[place] = name
    return name


cdef class Headers:
    """A message's headers. What is no UTF-8 comes back byte for byte when it is written.

    There are few, and their keys are compared as objects: to look through all of them is the fastest way to find one.
    """

    def __cinit__(self):
        self.names = []
        self.values = []

    def __init__(self, pairs=()):
        for name, value in pairs:
            self.add(name.encode("ascii"), value.encode("utf-8", "surrogateescape"))

    @property
    def pairs(self):
        cdef Name name
        return [(name.spelt, decoded(value)) for name, value in zip(self.names, self.values, strict=True)]

    cdef Py_ssize_t find(self, str key, Py_ssize_t at=0) noexcept:
        """Where the first of that name stands, from at on; -1: there is none."""
        cdef Py_ssize_t i
        for i in range(at, len(self.names)):
            if (<Name> self.names[i]).key is key:
                return i
        return -1

    cdef bytes raw(self, str key):
        """The first value of that name, or None."""
        cdef Py_ssize_t at = self.find(key)
        return None if at < 0 else self.values[at]

    cpdef str value(self, str key):
        cdef Py_ssize_t at = self.find(key)
        return None if at < 0 else decoded(self.values[at])

    cpdef bint has(self, str key) noexcept:
        return self.find(key) >= 0

    cpdef bint is_repeated(self, str key) noexcept:
        """Whether there is more than one of that name."""
        cdef Py_ssize_t at = self.find(key)
        return at >= 0 and self.find(key, at + 1) >= 0

    cpdef bytes lines(self, frozenset passed, str prefix, str ours):
        """Those whose names (in lower case) are passed on, or begin with the prefix, as lines of a head; ours is behind
        them."""
        cdef list lines = []
        cdef Name name
        cdef bytes value
        cdef Py_ssize_t i
        for i in range(len(self.names)):
            name = self.names[i]
            if name.passed is not passed or name.prefix is not prefix:
                name.passes = name.key in passed or name.key.startswith(prefix)
                name.passed = passed
                name.prefix = prefix
            if name.passes:
                value = self.values[i]
                if not is_one_line(value):
                    raise Refused("bad_request", f"the header {name.key} holds CR, LF or NUL")
                lines.append(name.line)
                lines.append(value)
                lines.append(b"\r\n")
        lines.append(ours.encode("ascii"))
        return b"".join(lines)

    cdef add(self, bytes sent, bytes value):
        cdef Name name = name_of(sent)
        if name.once and self.find(name.key) >= 0:
            raise Refused("bad_request", f"the header {name.key} is given twice: send it once")
        self.names.append(name)
        self.values.append(stripped(value))


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
