"""An answer on its way to a client: its head, its framing, and as few writes as can be.

Promise: an answer whose end is known says so by its length, all others end with the last chunk, or with the connection
for a client that knows no chunks; what is broken off never looks whole. What one read of the node has brought goes out
in one write.
"""

from http import HTTPStatus

cdef frozenset BODILESS = frozenset((204, 304))
cdef dict STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


cdef str status_line(int status):
    line = STATUS_LINES.get(status)
    return f"HTTP/1.1 {status} Unknown\r\n" if line is None else line


cdef Py_ssize_t total(list pieces):
    cdef Py_ssize_t size = 0
    for piece in pieces:
        size += len(<bytes> piece)
    return size


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

    cdef write_head(self, int status, list headers, bint last):
        """headers: (name, value) of what the node and the gateway say. last: the connection ends with this answer."""
        cdef list lines = [status_line(status)]
        cdef bint sized = status in BODILESS
        for name, value in headers:
            lines.append(f"{name}: {value}\r\n")
            if name == "Content-Length":
                sized = True
        self.chunked = not sized and self.minor == 1
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        if last or not (sized or self.chunked):
            self.keep = False
        self.out.append(self.encoded(lines))

    cdef write_error(self, error):
        """The whole answer of an ApiError."""
        cdef bytes body = error.body(self.path)
        cdef list lines = [status_line(error.status)]
        for name, value in error.headers.items():
            lines.append(f"{name}: {value}\r\n")
        lines.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
        self.transport.write(self.encoded(lines) + body)

    def encoded(self, list lines not None):
        """A head, with what every answer has."""
        lines.append(f"X-Request-Id: {self.request_id}\r\n")
        lines.append(self.common())
        if not self.keep:
            lines.append("Connection: close\r\n")
        elif self.minor == 0:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")

    def body(self, bytes data not None):
        """Bytes of the body, to be written with the next flush."""
        self.chunk.append(data)

    cpdef flush(self):
        """Write what has come."""
        cdef list out = self.out, chunk = self.chunk
        if chunk:
            self.chunk = []
            if self.chunked:
                out.append(b"%x\r\n" % total(chunk))
                out.extend(chunk)
                out.append(b"\r\n")
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
                out.append(b"%x\r\n" % total(chunk))
                out.extend(chunk)
                out.append(b"\r\n0\r\n\r\n")
            else:
                out.append(b"0\r\n\r\n")
        self.flush()
