"""One client's requests as llhttp reads them, and what llhttp lets through and a router must not.

Promise: a request that passes is read the same way by every HTTP program behind us: method, target, headers and where
its body ends. All else is refused with a status and the reason, before anything of it has gone anywhere.

Theory. llhttp reads heads, strictly (no leniency is switched on); a strict head ends at its first CRLF CRLF, so it is
fed alone, and what follows it has not been looked at by anybody. Bodies are framed here: one of known length is
counted, one in chunks is read by chunks.pyx. llhttp, which waits for the body, gets it where it is all there and of
known length; else that parser is thrown away.
"""

import re
from io import BytesIO

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from fairlead.wire.headers import Refused

from cpython.bytes cimport PyBytes_GET_SIZE
from fairlead.wire.chunks cimport Chunks
from fairlead.wire.headers cimport Headers
from libc.stdint cimport int64_t

cdef enum:
    # aiohttp's own limits: the lane accepts nothing that aiohttp would refuse.
    LINE_MAX = 8190        # bytes of a target, or of a header's name and value together
    HEADERS_MAX = 128
    LENGTH_DIGITS_MAX = 15
    METHOD_MAX = 24

cdef object HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")


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
        cdef Py_ssize_t at = self.at, length = len(held), end
        self.headers = None  # those of the request before are not this one's
        while at + 1 < length and held[at] == 13 and held[at + 1] == 10:
            at += 2  # blank lines between requests; llhttp takes them too
        if at == length:
            self.held = None
            return None
        self.at = at
        if held[at] == 13 and at + 1 == length:
            return None
        check_method(held, at)
        end = held.find(b"\r\n\r\n", max(self.searched, at))
        if (length if end < 0 else end + 4) - at > head_max:
            raise Refused("bad_request", f"the head is longer than {head_max} bytes (limits.head)")
        if end < 0:
            self.searched = max(at, length - 3)
            return None
        end += 4
        head = held if at == 0 and end == length else held[at:end]
        self.consume(end)
        self.forget()
        self.read(head)
        return head

    cdef bytes next_body(self, int64_t body_max):
        """The request's whole body; None: it is not whole. Raises Refused."""
        return self.next_chunked(body_max) if self.chunked else self.next_sized()

    cdef bytes next_sized(self):
        """Of a body in one read there is one copy, of one in several reads too."""
        cdef bytes held = self.held
        cdef Py_ssize_t at = self.at
        cdef int64_t there = len(held) - at, wanted = self.length - self.got
        if self.pieces is None:
            if there >= wanted and not self.upgrade:
                self.feed(memoryview(held)[at:at + wanted])
                self.consume(at + wanted)
                body, self.body = self.body, b""  # it may be large, and the connection idle for long
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
        return held if at == 0 and end == len(held) else held[at:end]

    cdef void forget(self):
        """The next message is another request."""
        self.url = b""
        self.headers = None
        self.method = None
        self.length = 0
        self.chunked = False
        self.minor = 1
        self.keep_alive = False
        self.upgrade = False
        self.head_done = False
        self.complete = False
        self.body = b""
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
        cdef Py_ssize_t end = head.find(b"\r\n")
        cdef bytes line_end = head[end - 9:end] if end >= 9 else b""
        self.headers = Headers()
        if line_end == b" HTTP/1.0":
            self.minor = 0
        elif line_end != b" HTTP/1.1":
            self.refuse_version(head[:end])
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
        host = headers.first.get("host")
        coding = headers.first.get("transfer-encoding")
        if host is None:
            if self.minor == 1:
                raise Refused("bad_request", "the Host header is missing")
        elif not HOST.fullmatch(host):
            raise Refused("bad_request", "the Host header is not HOST[:PORT]")
        if coding is not None:
            if self.minor == 0:
                raise Refused("bad_request", "Transfer-Encoding in an HTTP/1.0 request: send Content-Length")
            if coding.lower() != b"chunked":
                raise Refused("unsupported_coding", "the Transfer-Encoding is not chunked: send the body as it is")
            self.chunked = True
            self.chunks = Chunks()
        elif "content-length" in headers.first:
            self.length = content_length(headers.first["content-length"])
        expected = headers.first.get("expect")
        if expected is not None and expected.lower() != b"100-continue":
            raise Refused("expectation_failed", "the Expect header is not 100-continue")
        if self.method == b"CONNECT":
            raise Refused("unsupported_method", "the method is CONNECT: this server is no tunnel")
        if "sec-websocket-key1" in headers.first:
            raise Refused("bad_request", "a handshake of a WebSocket draft: there are no WebSockets here")

    cdef feed(self, body):
        """The whole body, after which the parser is ready for the next head."""
        try:
            self.parser.feed_data(body)
        except HttpParserCallbackError as error:
            raise error.__context__ if isinstance(error.__context__, Exception) else error
        except HttpParserError as error:
            raise Refused("bad_request", f"the body's framing is broken: {error}")

    # What llhttp calls

    def on_url(self, bytes url):
        self.url = self.url + url if self.url else url
        if len(self.url) > LINE_MAX:
            raise Refused("bad_request", f"the request line is longer than {LINE_MAX} bytes")

    def on_header(self, bytes name, bytes value):
        self.count += 1
        if self.count > HEADERS_MAX:
            raise Refused("bad_request", f"more than {HEADERS_MAX} headers")
        if PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) > LINE_MAX:
            raise Refused("bad_request", f"a header is longer than {LINE_MAX} bytes")
        self.headers.add(name, value)

    def on_headers_complete(self):
        self.head_done = True
        self.method = self.parser.get_method()
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, bytes data):
        self.body = data


cdef int64_t content_length(bytes text) except -1:
    """llhttp has read it as digits; what it counts beyond that no limit allows."""
    if not text.isdigit():
        raise Refused("bad_request", "the Content-Length is not a number")
    if len(text) > LENGTH_DIGITS_MAX:
        raise Refused("request_too_large", "the Content-Length is beyond every limit")
    return int(text)


cdef bint check_method(bytes held, Py_ssize_t at) except -1:
    """What does not begin like a request, letters and a blank, need not be waited for."""
    cdef Py_ssize_t i = at, length = len(held)
    cdef const unsigned char *bytes_ = held
    while i < length and i - at < METHOD_MAX and (65 <= bytes_[i] <= 90 or bytes_[i] == 45):
        i += 1
    if i - at == METHOD_MAX:
        raise Refused("unsupported_method", "the method is none that this server knows")
    if i < length and (i == at or bytes_[i] != 32):
        raise Refused("bad_request", "this is not a valid HTTP/1.1 request: it has no method")
    return True


cdef too_large(str what, int64_t limit):
    return Refused("request_too_large", f"the body is {what}, the limit is {limit} bytes (limits.body): send less")
