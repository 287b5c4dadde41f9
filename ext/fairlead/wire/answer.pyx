"""An answer on its way to a client: its head, its framing, and as few writes as can be.

Promise: an answer whose end is known says so by its length, all others end with the last chunk, or with the connection
for a client that knows no chunks; what is broken off never looks whole. What one read of the node has brought goes out
in one write.
"""

from http import HTTPStatus

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memcpy

cdef enum:
    TIMING_MAX = 256       # bytes of a Server-Timing line: three numbers of at most 19 digits

cdef const char *HEX = b"0123456789abcdef"
cdef frozenset BODILESS = frozenset((204, 304))
cdef dict STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}


def server_timing(int64_t queue_ns, int64_t connect_ns, int64_t first_byte_ns):
    """The line that tells milliseconds, as browsers' tools read them."""
    cdef char line[TIMING_MAX]
    cdef char *to = line
    to = put_ms(put(to, b"Server-Timing: queue;dur="), queue_ns)
    to = put_ms(put(to, b", connect;dur="), connect_ns)
    to = put(put_ms(put(to, b", ttfb;dur="), first_byte_ns), b"\r\n")
    return line[:to - line]


cdef char *put(char *to, const char *text) noexcept:
    while text[0]:
        to[0] = text[0]
        to += 1
        text += 1
    return to


cdef char *put_ms(char *to, int64_t ns) noexcept:
    """With one decimal."""
    cdef char digits[20]
    cdef int64_t tenths = ns // 100_000 if ns > 0 else 0
    cdef int64_t whole = tenths // 10
    cdef int count = 0
    while whole or not count:
        digits[count] = <char> (c"0" + whole % 10)
        whole //= 10
        count += 1
    while count:
        count -= 1
        to[0] = digits[count]
        to += 1
    to[0] = c"."
    to[1] = <char> (c"0" + tenths % 10)
    return to + 2


cdef bytes status_line(int status):
    line = STATUS_LINES.get(status)
    return b"HTTP/1.1 %d Unknown\r\n" % status if line is None else line


cdef bytes chunk_of(list pieces):
    """All of them as one chunk."""
    cdef Py_ssize_t size = 0, left, digits = 0, i
    cdef bytes framed, piece
    cdef char *to
    for piece in pieces:
        size += len(piece)
    left = size
    while left:
        left >>= 4
        digits += 1
    framed = PyBytes_FromStringAndSize(NULL, digits + size + 4)
    to = PyBytes_AS_STRING(framed)
    left = size
    for i in range(digits):
        to[digits - 1 - i] = HEX[left & 15]
        left >>= 4
    to = put(to + digits, b"\r\n")
    for piece in pieces:
        memcpy(to, PyBytes_AS_STRING(piece), len(piece))
        to += len(piece)
    put(to, b"\r\n")
    return framed


cdef class Answer:
    """The writing half of a connection. keep, minor, path and request_id are the request's.
    common() gives the header lines that every answer has."""

    def __init__(self, common):
        self.common = common
        self.transport = None
        self.path = self.request_id = ""
        self.out = []
        self.chunk = []
        self.minor = 1
        self.keep = True

    cdef write_head(self, int status, bytes lines, bint sized, bint last):
        """lines: header lines, of what the node and the gateway say; sized: they say the body's length. last: the
        connection ends with this answer."""
        if status in BODILESS:
            sized = True
        self.chunked = not sized and self.minor == 1
        if last or not (sized or self.chunked):
            self.keep = False
        self.out.append(self.encoded(status, lines, b"Transfer-Encoding: chunked\r\n" if self.chunked else b""))

    cdef write_error(self, error):
        """The whole answer of an ApiError."""
        cdef bytes body = error.body(self.path)
        cdef list lines = [f"{name}: {value}\r\n" for name, value in error.headers.items()]
        lines.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
        self.transport.write(self.encoded(error.status, "".join(lines).encode("latin-1"), b"") + body)

    cdef bytes encoded(self, int status, bytes lines, bytes framing):
        """A head, with what every answer has."""
        cdef bytes end = b"\r\n"
        if not self.keep:
            end = b"Connection: close\r\n\r\n"
        elif self.minor == 0:
            end = b"Connection: keep-alive\r\n\r\n"
        return b"".join((
            status_line(status), lines, framing, b"X-Request-Id: ", self.request_id.encode("latin-1"), b"\r\n",
            self.common(), end,
        ))

    def body(self, bytes data not None):
        """Bytes of the body, to be written with the next flush."""
        if data:  # an empty chunk would be the last
            self.chunk.append(data)

    cpdef flush(self):
        """Write what has come."""
        cdef list out = self.out, chunk = self.chunk
        if chunk:
            self.chunk = []
            if self.chunked:
                out.append(chunk_of(chunk))
            else:
                out.extend(chunk)
        if out:
            self.out = []
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    cdef write_end(self):
        """Write what has come and the end."""
        cdef list out = self.out, chunk = self.chunk
        if self.chunked:
            if chunk:
                self.chunk = []
                out.append(chunk_of(chunk))
            out.append(b"0\r\n\r\n")
        self.flush()
