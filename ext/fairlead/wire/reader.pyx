"""One client's requests as llhttp reads them, and what llhttp lets through and a router must not.

Promise: a request that passes is read the same way by every HTTP program behind us: method, target, headers and where
its body ends. All else is refused with a status and the reason, before anything of it has gone anywhere.

Theory. llhttp reads heads, strictly (no leniency is switched on); a strict head ends at its first CRLF CRLF, so it is
fed alone, and what follows it has not been looked at by anybody. Bodies are framed here: one of known length is
counted, one in chunks is read by chunks.pyx. llhttp, which waits for the body, gets it where it is all there and of
known length; else that parser is thrown away.
"""

from io import BytesIO

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from fairlead.wire.headers import Refused, key_of

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from fairlead.wire.chunks cimport Chunks
from fairlead.wire.headers cimport Headers
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, strchr

cdef enum:
    # aiohttp's own limits: the lane accepts nothing that aiohttp would refuse.
    LINE_MAX = 8190        # bytes of a target, or of a header's name and value together
    HEADERS_MAX = 128
    LENGTH_DIGITS_MAX = 15
    METHOD_MAX = 24

cdef const char *BLANK_LINE = b"\r\n\r\n"
cdef const char *LINE_END = b"\r\n"
cdef const char *HOST_SIGNS = b"._~%!$&'()*+,;=:[]-"  # and letters and digits
cdef str HOST = key_of("Host")
cdef str TRANSFER_ENCODING = key_of("Transfer-Encoding")
cdef str CONTENT_LENGTH = key_of("Content-Length")
cdef str EXPECT = key_of("Expect")
cdef str WEBSOCKET_KEY1 = key_of("Sec-WebSocket-Key1")


cdef class Reader:
    """Reads one request after the other out of what is put in: its head, then its body or the pieces of it."""

    def __init__(self):
        self.parser = HttpRequestParser(self)
        self.held = None
        self.forget()

    cdef put(self, bytes data):
        """Bytes have come."""
        if self.held is None:
            self.held = data
            self.searched = 0
        else:
            self.held = self.held[self.at:] + data
            self.searched -= self.at
        self.at = 0

    cdef Py_ssize_t pending(self):
        """Bytes that have not been looked at."""
        return 0 if self.held is None else len(self.held) - self.at

    cdef bint begun(self):
        """Of a head there is more than half a blank line."""
        return self.held is not None and not (len(self.held) - self.at == 1 and self.held[self.at] == 13)

    cdef consume(self, Py_ssize_t end):
        """What is held has been dealt with up to here."""
        if end == len(self.held):
            self.held = None
        else:
            self.at = self.searched = end

    cdef bytes next_head(self, Py_ssize_t head_max):
        """The next request's head, which the fields then describe; None: it is not whole. Raises Refused."""
        cdef bytes held = self.held, head
        cdef Py_ssize_t at = self.at, length = len(held), end, method_end
        self.headers = None  # those of the request before are not this one's
        while at + 1 < length and held[at] == 13 and held[at + 1] == 10:
            at += 2  # blank lines between requests; llhttp takes them too
        if at == length:
            self.held = None
            return None
        self.at = at
        if held[at] == 13 and at + 1 == length:
            return None
        method_end = end_of_method(held, at)
        end = behind(held, max(self.searched, at), BLANK_LINE, 4)
        if (length if end < 0 else end) - at > head_max:
            raise Refused("bad_request", f"the head is longer than {head_max} bytes (limits.head)")
        if end < 0:
            self.searched = max(at, length - 3)
            return None
        head = part(held, at, end)
        self.consume(end)
        self.forget()
        self.method = part(head, 0, method_end - at)
        self.read(head)
        return head

    cdef bytes next_body(self, int64_t body_max):
        """The request's whole body; None: it is not whole. Raises Refused."""
        return self.next_chunked(body_max) if self.chunked else self.next_sized()

    cdef bytes next_sized(self):
        """Of a body in one read there is one copy, of one in several reads too."""
        cdef bytes held = self.held, body
        cdef Py_ssize_t at = self.at
        cdef int64_t there = len(held) - at, wanted = self.length - self.got
        if self.pieces is None:
            if there >= wanted and not self.upgrade:
                body = part(held, at, at + wanted)
                self.feed(body)
                self.consume(at + wanted)
                return body
            self.pieces = BytesIO()
        wanted = min(wanted, there)
        self.pieces.write(memoryview(held)[at:at + wanted])
        self.consume(at + wanted)
        self.got += wanted
        if self.got < self.length:
            return None
        self.renew()
        return self.joined()

    cdef bytes next_chunked(self, int64_t body_max):
        cdef Chunks chunks = self.chunks
        if self.pieces is None:
            self.pieces = BytesIO()
        self.consume(chunks.feed(self.held, self.at, self.pieces.write))
        if chunks.got > body_max:
            raise too_large(f"longer than {body_max} bytes", body_max)
        return self.joined() if chunks.done else None

    cdef bytes joined(self):
        """What pieces has, which gives it without a copy."""
        body = self.pieces.getvalue()
        self.pieces = None
        return body

    cdef bytes next_piece(self):
        """Bytes of the body as they came, for one who reads HTTP himself; complete says if it was the last."""
        cdef bytes held = self.held
        cdef Py_ssize_t at = self.at, end
        if self.chunked:
            end = self.chunks.feed(held, at, None)
            self.complete = self.chunks.done
        else:
            end = min(len(held), at + self.length - self.got)
            self.got += end - at
            if self.got == self.length:
                self.complete = True
                self.renew()
        self.consume(end)
        return part(held, at, end)

    cdef void forget(self):
        """The next message is another request."""
        self.url = b""
        self.headers = None
        self.method = None
        self.length = 0
        self.chunked = self.expects = False
        self.minor = 1
        self.keep_alive = False
        self.upgrade = False
        self.head_done = False
        self.complete = False
        self.pieces = None
        self.chunks = None
        self.got = 0
        self.count = 0

    cdef void renew(self):
        """The parser waits for a body that went past it."""
        self.parser = HttpRequestParser(self)

    cdef void close(self):
        """It holds our methods: a cycle."""
        self.parser = self.held = self.pieces = None

    cdef read(self, bytes head):
        cdef Py_ssize_t end = behind(head, 0, LINE_END, 2) - 2
        cdef const char *version = PyBytes_AS_STRING(head) + end - 9
        self.headers = Headers.__new__(Headers)
        if end < 9 or memcmp(version, b" HTTP/1.", 8) != 0 or (version[8] != 48 and version[8] != 49):
            self.refuse_version(head[:end])
        self.minor = version[8] - 48
        try:
            self.parser.feed_data(head)
        except HttpParserUpgrade:
            self.upgrade = True  # it is served as what it is
        except HttpParserCallbackError as error:
            raise error.__context__ if isinstance(error.__context__, Exception) else error
        except HttpParserInvalidMethodError:
            raise Refused("unsupported_method", "the method is none that this server knows")
        except HttpParserError as error:
            raise Refused("bad_request", f"this is not a valid HTTP/1.1 request: {error}")
        if not self.head_done:
            raise Refused("bad_request", "this is not a valid HTTP/1.1 request")
        self.guard()
        if self.chunked or self.upgrade:
            self.renew()

    cdef refuse_version(self, bytes line):
        version = line.rpartition(b" ")[2]
        if version.startswith(b"HTTP/") and line.count(b" ") >= 2:
            raise Refused("unsupported_version", "the HTTP version is not 1.0 or 1.1: speak HTTP/1.1")
        raise Refused("bad_request", "this is not a valid HTTP/1.1 request: it has no request line of that version")

    cdef guard(self):
        """What every parser would read alike, and llhttp or aiohttp takes nevertheless."""
        cdef Headers headers = self.headers
        cdef bytes host = headers.raw(HOST), coding = headers.raw(TRANSFER_ENCODING), length, expected
        if host is None:
            if self.minor == 1:
                raise Refused("bad_request", "the Host header is missing")
        elif not is_host(host):
            raise Refused("bad_request", "the Host header is not HOST[:PORT]")
        if coding is not None:
            if self.minor == 0:
                raise Refused("bad_request", "Transfer-Encoding in an HTTP/1.0 request: send Content-Length")
            if coding.lower() != b"chunked":
                raise Refused("unsupported_coding", "the Transfer-Encoding is not chunked: send the body as it is")
            self.chunked = True
            self.chunks = Chunks()
        else:
            length = headers.raw(CONTENT_LENGTH)
            if length is not None:
                self.length = content_length(length)
        expected = headers.raw(EXPECT)
        self.expects = expected is not None
        if self.expects and expected.lower() != b"100-continue":
            raise Refused("expectation_failed", "the Expect header is not 100-continue")
        if self.method == b"CONNECT":
            raise Refused("unsupported_method", "the method is CONNECT: this server is no tunnel")
        if headers.has(WEBSOCKET_KEY1):
            raise Refused("bad_request", "a handshake of a WebSocket draft: there are no WebSockets here")

    cdef feed(self, body):
        """The whole body, after which the parser is ready for the next head."""
        try:
            self.parser.feed_data(body)
        except HttpParserCallbackError as error:
            raise error.__context__ if isinstance(error.__context__, Exception) else error
        except HttpParserError as error:
            raise Refused("bad_request", f"the body's framing is broken: {error}")

    # What llhttp calls; without binding=False each call would make two more

    @cython.binding(False)
    def on_url(self, bytes url):
        self.url = self.url + url if self.url else url
        if len(self.url) > LINE_MAX:
            raise Refused("bad_request", f"the request line is longer than {LINE_MAX} bytes")

    @cython.binding(False)
    def on_header(self, bytes name, bytes value):
        self.count += 1
        if self.count > HEADERS_MAX:
            raise Refused("bad_request", f"more than {HEADERS_MAX} headers")
        if PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) > LINE_MAX:
            raise Refused("bad_request", f"a header is longer than {LINE_MAX} bytes")
        self.headers.add(name, value)

    @cython.binding(False)
    def on_headers_complete(self):
        self.head_done = True
        self.keep_alive = self.parser.should_keep_alive()


cdef Py_ssize_t behind(bytes text, Py_ssize_t at, const char *end, size_t size) noexcept:
    """Where, from at on, these bytes have been; they begin with a CR. -1: nowhere."""
    cdef const char *start = PyBytes_AS_STRING(text)
    cdef const char *stop = start + PyBytes_GET_SIZE(text)
    cdef const char *here = start + at
    while here < stop:
        here = <const char *> memchr(here, 13, <size_t> (stop - here))
        if here == NULL or <size_t> (stop - here) < size:
            return -1
        if memcmp(here, end, size) == 0:
            return here - start + <Py_ssize_t> size
        here += 1
    return -1


cdef bytes part(bytes text, Py_ssize_t start, Py_ssize_t end):
    if start == 0 and end == PyBytes_GET_SIZE(text):
        return text
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(text) + start, end - start)


cdef bint is_host(bytes text) noexcept:
    cdef unsigned char byte
    for byte in text:
        # strchr finds the end of its text, too.
        if not (65 <= (byte & 0xdf) <= 90 or 48 <= byte <= 57 or (byte and strchr(HOST_SIGNS, byte) != NULL)):
            return False
    return True


cdef int64_t content_length(bytes text) except -1:
    """llhttp has read it as digits; what it counts beyond that no limit allows."""
    if not text.isdigit():
        raise Refused("bad_request", "the Content-Length is not a number")
    if len(text) > LENGTH_DIGITS_MAX:
        raise Refused("request_too_large", "the Content-Length is beyond every limit")
    cdef int64_t length = 0
    cdef unsigned char digit
    for digit in text:
        length = length * 10 + digit - 48
    return length


cdef Py_ssize_t end_of_method(bytes held, Py_ssize_t at) except -1:
    """What does not begin like a request, letters and a blank, need not be waited for."""
    cdef Py_ssize_t i = at, length = len(held)
    cdef const unsigned char *bytes_ = held
    while i < length and i - at < METHOD_MAX and (65 <= bytes_[i] <= 90 or bytes_[i] == 45):
        i += 1
    if i - at == METHOD_MAX:
        raise Refused("unsupported_method", "the method is none that this server knows")
    if i < length and (i == at or bytes_[i] != 32):
        raise Refused("bad_request", "this is not a valid HTTP/1.1 request: it has no method")
    return i


cdef too_large(str what, int64_t limit):
    return Refused("request_too_large", f"the body is {what}, the limit is {limit} bytes (limits.body): send less")
