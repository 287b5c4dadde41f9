"""Heads and bodies that a router must refuse, or must take for what they are: data for test_lane_framing.py.

POST PATH stands for a method and a target; every row is sent to both doors of the port.
"""

from __future__ import annotations

from typing import NamedTuple


class Refused(NamedTuple):
    """Answered with this status and code, and closed."""

    name: str
    stream: bytes
    status: int = 400
    code: str = "bad_request"


class Taken(NamedTuple):
    """A request like any other, and so is the next one on its connection. body: what the node gets; empty: no JSON."""

    name: str
    stream: bytes
    body: bytes


def post(*lines: bytes, body: bytes = b"", first: bytes = b"POST PATH HTTP/1.1", host: bytes = b"Host: x") -> bytes:
    return b"\r\n".join((first, *((host,) if host else ()), *lines, b"", b"")) + body


def first(line: bytes) -> bytes:
    return post(first=line)


def with_length(value: bytes) -> bytes:
    return post(b"Content-Length: " + value, body=b"{}")


def with_coding(value: bytes) -> bytes:
    return post(b"Transfer-Encoding: " + value, body=b"2\r\n{}\r\n0\r\n\r\n")


def in_chunks(body: bytes, *lines: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


def with_line(line: bytes) -> bytes:
    return post(line, b"Content-Length: 2", body=b"{}")


LENGTH, CODING = b"Content-Length: 2", b"Transfer-Encoding: chunked"
MANY = [b"X-%d: y" % number for number in range(200)]

HEADS = (
    Refused("length and coding", post(LENGTH, CODING, body=b"0\r\n\r\n")),
    Refused("coding and length", post(CODING, LENGTH, body=b"0\r\n\r\n")),
    Refused("two lengths", post(LENGTH, b"Content-Length: 3", body=b"{}")),
    Refused("two equal lengths", post(LENGTH, LENGTH, body=b"{}")),
    Refused("length 2, 2", with_length(b"2, 2")),
    Refused("length +2", with_length(b"+2")),
    Refused("length -1", with_length(b"-1")),
    Refused("length 0_2", with_length(b"0_2")),
    Refused("length 0x2", with_length(b"0x2")),
    Refused("length of Arabic digits", with_length("٢".encode())),
    Refused("length empty", with_length(b"")),
    Refused("length beyond 64 bits", with_length(b"%d" % (2**64 + 2))),
    Refused("length beyond every limit", with_length(b"9" * 18), 413, "request_too_large"),
    Refused("coding xchunked", with_coding(b"xchunked")),
    Refused("coding chunked, identity", with_coding(b"chunked, identity")),
    Refused("coding chunked twice", with_coding(b"chunked\r\nTransfer-Encoding: chunked")),
    Refused("coding identity", with_coding(b"identity")),
    Refused("coding empty", with_coding(b"")),
    Refused("coding gzip, chunked", with_coding(b"gzip, chunked"), 501, "unsupported_coding"),
    Refused("chunks in HTTP/1.0", post(CODING, body=b"0\r\n\r\n", first=b"POST PATH HTTP/1.0")),
    Refused("blank before the colon", with_line(b"Transfer-Encoding : chunked")),
    Refused("no colon", with_line(b"X")),
    Refused("no name", with_line(b": x")),
    Refused("a name of 8 bits", with_line(b"X\xe9: y")),
    Refused("first header folded", post(b" x", LENGTH, body=b"{}", host=b"")),
    Refused("a header folded", with_line(b"X: a\r\n b")),
    Refused("line feeds alone", first(b"POST PATH HTTP/1.1").replace(b"\r\n", b"\n") + b"\r\n\r\n"),
    Refused("one line feed alone", with_line(b"X: a\nContent-Length: 2")),
    Refused("a blank line that is a line feed", b"\n" + with_length(b"2")),
    Refused("carriage return in a value", with_line(b"X: a\rTransfer-Encoding: chunked")),
    Refused("NUL in a value", with_line(b"X: \0")),
    Refused("0x01 in a value", with_line(b"X: a\x01")),
    Refused("0x1f in a value", with_line(b"X: a\x1f")),
    Refused("0x7f in a value", with_line(b"X: a\x7f")),
    Refused("no Host", post(LENGTH, body=b"{}", host=b"")),
    Refused("two Hosts", post(b"Host: x", LENGTH, body=b"{}")),
    Refused("Host with a blank", post(LENGTH, body=b"{}", host=b"Host: a b")),
    Refused("Host with a user", post(LENGTH, body=b"{}", host=b"Host: x@y")),
    Refused("Host with a path", post(LENGTH, body=b"{}", host=b"Host: /admin?")),
    Refused("Host of 8 bits", post(LENGTH, body=b"{}", host=b"Host: \xc3\xa9")),
    Refused("HTTP/2.0", first(b"POST PATH HTTP/2.0"), 505, "unsupported_version"),
    Refused("HTTP/1.9", first(b"POST PATH HTTP/1.9"), 505, "unsupported_version"),
    Refused("HTTP/1ö1", first("POST PATH HTTP/1ö1".encode()), 505, "unsupported_version"),
    Refused("HTTP/0.9 with headers", first(b"POST PATH")),
    Refused("http/1.1", first(b"POST PATH http/1.1")),
    Refused("RTSP/1.0", first(b"POST PATH RTSP/1.0")),
    Refused("ICE/1.0", first(b"SOURCE PATH ICE/1.0")),
    Refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported_version"),
    Refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))),
    Refused("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
    Refused("lower case method", first(b"post PATH HTTP/1.1")),
    Refused("CONNECT", first(b"CONNECT x:80 HTTP/1.1"), 501, "unsupported_method"),
    Refused("unknown method", first(b"BREW PATH HTTP/1.1"), 501, "unsupported_method"),
    Refused("method of 300 letters", first(b"P" * 300 + b" PATH HTTP/1.1"), 501, "unsupported_method"),
    Refused("request line of 9 kB", first(b"POST PATH?" + b"x" * 9000 + b" HTTP/1.1")),
    Refused("header of 9 kB", post(b"X: " + b"y" * 9000)),
    Refused("200 headers", post(*MANY)),
    Refused("head of 33 kB", post(*(b"X-%d: " % number + b"y" * 8000 for number in range(4)), b"X: " + b"y" * 1200)),
    Refused("a blank in the target", first(b"POST PATH/a b HTTP/1.1")),
    Refused("target of 8 bits", first(b"POST PATH?\xc3\xbc HTTP/1.1")),
    Refused("Expect bogus", post(b"Expect: bogus", LENGTH, body=b"{}"), 417, "expectation_failed"),
    Refused("Expect bogus, chunks", in_chunks(b"0\r\n\r\n", b"Expect: bogus"), 417, "expectation_failed"),
    Refused("old WebSocket handshake", with_line(b"Sec-WebSocket-Key1: x")),
)
# What has no right body: whoever does not read bodies may have answered before that turns out.
BODIES = (
    Refused("chunk size of 17 digits", in_chunks(b"F" * 17 + b"\r\n{}\r\n0\r\n\r\n")),
    Refused("chunk size 0x2", in_chunks(b"0x2\r\n{}\r\n0\r\n\r\n")),
    Refused("chunk size -2", in_chunks(b"-2\r\n{}\r\n0\r\n\r\n")),
    Refused("chunk size empty", in_chunks(b"\r\n{}\r\n0\r\n\r\n")),
    Refused("chunk size with a blank", in_chunks(b"2 \r\n{}\r\n0\r\n\r\n")),
    Refused("chunk longer than it says", in_chunks(b"1\r\n{}\r\n0\r\n\r\n")),
    Refused("chunk shorter than it says", in_chunks(b"3\r\n{}\r\n0\r\n\r\n")),
    Refused("chunk line with a line feed", in_chunks(b"2\n{}\r\n0\r\n\r\n")),
    Refused("chunk that ends with a line feed", in_chunks(b"2\r\n{}\n0\r\n\r\n")),
    Refused("last chunk with a line feed", in_chunks(b"2\r\n{}\r\n0\n\r\n")),
    Refused("extension with a line feed", in_chunks(b"2;a\nb\r\n{}\r\n0\r\n\r\n")),
    Refused("extension of 20 kB", in_chunks(b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n")),
    Refused("trailer Content-Length", in_chunks(b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n")),
    Refused("trailer Authorization", in_chunks(b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n")),
    Refused("10,000 trailers", in_chunks(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n")),
)

CHAT = b'{"model": "demo", "messages": []}'
INSIDE = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
SIZED = b"Content-Length: %d" % len(CHAT)


def sized(*lines: bytes, line: bytes = b"POST PATH HTTP/1.1", host: bytes = b"Host: x") -> bytes:
    return post(SIZED, *lines, body=CHAT, first=line, host=host)


TAKEN = (
    Taken("plain", sized(), CHAT),
    Taken("blank lines before", b"\r\n\r\n" + sized(), CHAT),
    Taken("values with blanks around", sized(b"X:\t a \t"), CHAT),
    Taken("empty value", sized(b"X:"), CHAT),
    Taken("value of 8 bits", sized(b"X: \xff\xc3\xa9"), CHAT),
    Taken("empty Host", sized(host=b"Host:"), CHAT),
    Taken("Host with port", sized(host=b"Host: [::1]:8080"), CHAT),
    Taken("leading zeros", post(b"Content-Length: 000%d" % len(CHAT), body=CHAT), CHAT),
    Taken("chunks", in_chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)), CHAT),
    Taken("chunks, upper case", in_chunks(b"%X\r\n%b\r\n00\r\n\r\n" % (len(CHAT), CHAT), b"X: y"), CHAT),
    Taken("one byte chunks", in_chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in CHAT) + b"0\r\n\r\n"), CHAT),
    Taken("extensions", in_chunks(b"%x;a=b;c\r\n%b\r\n0;d\r\n\r\n" % (len(CHAT), CHAT)), CHAT),
    Taken(
        "upgrade to HTTP/2", sized(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x"), CHAT
    ),
    Taken("upgrade to WebSocket", sized(b"Connection: Upgrade", b"Upgrade: websocket"), CHAT),
    Taken(
        "upgrade, in chunks",
        in_chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT), b"Connection: Upgrade", b"Upgrade: x"),
        CHAT,
    ),
    Taken(
        "hop-by-hop headers listed", sized(b"Connection: authorization, x-api-key", b"Authorization: Bearer x"), CHAT
    ),
    Taken("underscores", sized(b"Transfer_Encoding: chunked", b"Content_Length: 0"), CHAT),
    Taken("forged origin", sized(b"X-Forwarded-For: 10.0.0.1", b"X-Real-IP: 10.0.0.1", b"X-Router-Id: 1"), CHAT),
    Taken("128 headers", sized(*MANY[:126]), CHAT),
    Taken("header of 8 kB", sized(b"X: " + b"y" * 8000), CHAT),
    Taken("body that is a request", post(b"Content-Length: %d" % len(INSIDE), body=INSIDE), b""),
    Taken("chunk that is a request", in_chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(INSIDE), INSIDE)), b""),
)
