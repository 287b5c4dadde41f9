"""Streams of requests, right ones and wrong ones, for those who compare readers."""

from __future__ import annotations

from random import Random

LINES = (
    b"POST /v1/chat/completions HTTP/1.1",
    b"POST /v1/chat/completions?a=b&c HTTP/1.1",
    b"POST /v1/chat/completions HTTP/1.0",
    b"POST /elsewhere HTTP/1.1",
    b"GET /v1/models HTTP/1.1",
    b"GET /v1/chat/completions HTTP/1.1",
    b"GET http://other/v1/models HTTP/1.1",
    b"HEAD /health HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"DELETE /a%2fb/../c;d HTTP/1.1",
    b"PUT //admin HTTP/1.1",
)
HEADERS = (
    b"Host: x",
    b"host: [::1]:80",
    b"User-Agent: curl/8.0",
    b"Accept: */*",
    b"Content-Type: application/json",
    b"X-Request-Id: abc",
    b"Authorization: Bearer sk-1",
    b"X-Empty:",
    b"X-Blank:  \t a \t ",
    b"Cookie: \xc3\xa9\xff",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Connection: close, authorization",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Content-Encoding: identity",
    b"Content-Length: 0",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:CHUNKED",
    b"X-Long: " + b"y" * 300,
)
BODIES = (b"{}", b'{"model": "demo"}', b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"0\r\n\r\n", b"x" * 40)
# What one inserts where it does most harm.
NASTY = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"0",
    b"1",
    b"5",
    b"-",
    b"+",
    b"_",
    b"a",
    b"F",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc3\xa9",
    b"%",
    b"/",
    b"?",
    b"#",
    b"@",
    b"*",
    b".",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b" HTTP/1.1\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 5\r\n",
    b"chunked",
    b"gzip, ",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Host: y\r\n",
    b"Host: a b\r\n",
    b"\r\n folded",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b";a=b",
    b';a="b"',
    b"; a",
    b"2\r\n{}\r\n",
    b"Connection: close\r\n",
    b"Upgrade: x\r\n",
    b"Expect: x\r\n",
)


def chunked(body: bytes, random: Random) -> bytes:
    """The body in chunks of random size."""
    out, at = b"", 0
    while at < len(body):
        size = random.randint(1, 9)
        piece = body[at : at + size]
        name = random.choice((b"%x", b"%X", b"0%x")) % len(piece)
        out += name + random.choice((b"", b"", b"", b";a", b";a=b", b";a;b=c")) + b"\r\n" + piece + b"\r\n"
        at += size
    return out + random.choice((b"0", b"000")) + b"\r\n\r\n"


def request(random: Random) -> bytes:
    """Mostly a right one."""
    line = random.choice(LINES)
    headers = [] if random.random() < 0.1 and line.endswith(b"1.0") else [random.choice(HEADERS[:2])]
    headers += random.sample(HEADERS[2:18], random.randint(0, 5))
    body = random.choice(BODIES)
    framing = random.random()
    if framing < 0.5:
        headers.append(b"Content-Length: %d" % len(body))
    elif framing < 0.8 and line.endswith(b"1.1"):
        headers.append(random.choice(HEADERS[19:21]))
        body = chunked(body, random)
    else:
        body = b""
    random.shuffle(headers)
    return b"\r\n".join((line, *headers, b"", b"")) + body


def mutated(stream: bytes, random: Random) -> bytes:
    """With one thing wrong somewhere, most likely where it matters."""
    kind = random.random()
    seams = [at for at, byte in enumerate(stream) if byte in b"\r\n: ;="]
    at = random.choice(seams) if seams and random.random() < 0.7 else random.randrange(len(stream) + 1)
    if kind < 0.5:
        return stream[:at] + random.choice(NASTY) + stream[at:]
    end = at + random.choice((1, 1, 1, 2, 4, 16))
    if kind < 0.7:
        return stream[:at] + stream[end:]
    if kind < 0.9:
        return stream[:at] + random.choice(NASTY) + stream[end:]
    return stream[:end] + stream[at:]


def stream_of(random: Random, wrong: int) -> bytes:
    """One to four requests in a row, with so many things wrong in them."""
    stream = b"".join(random.choice((b"", b"", b"\r\n")) + request(random) for _ in range(random.randint(1, 4)))
    for _ in range(wrong):
        stream = mutated(stream, random)
    return stream


def cut(stream: bytes, random: Random) -> list[bytes]:
    """The stream in pieces, as a network may deliver it."""
    if random.random() < 0.1:
        return [stream[at : at + 1] for at in range(len(stream))]
    marks = sorted(random.sample(range(len(stream) + 1), min(random.choice((1, 1, 2, 5)), len(stream) + 1)))
    return [stream[start:end] for start, end in zip([0, *marks], [*marks, len(stream)], strict=True) if start < end]
