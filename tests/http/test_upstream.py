"""One exchange on one connection: what the node may answer, what it may not, and how each exchange ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from raw_server import Peer, RawServer
from upstream_recorder import SECOND_NS, Recorder, all_closed, ask, begin, pool_of

from fairlead.upstream import Endpoint, Pool

Runs = Callable[[Callable[[], Awaitable[Any]]], Any]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
SSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'd\r\ndata: {"a"}\n\n\r\n' + b"e\r\ndata: [DONE]\n\n\r\n" + b"0\r\n\r\n"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


def answering(*segments: bytes, then: str = "") -> Callable[[Peer], Awaitable[None]]:
    """A script: each request gets these segments, then the connection is closed, reset or (then = "") kept."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.until(lambda: peer.ended is not None or b"\r\n\r\n" in peer.received[peer.taken :])
            if peer.ended:
                return
            await peer.request()
            await peer.send(*segments)
            if then:
                getattr(peer, then)()
                return

    return script


def outcome_of(no_leaks: Runs, *segments: bytes, then: str = "") -> tuple[Recorder, Pool]:
    """One exchange with a node that answers these segments; the connection must not have been kept."""

    async def main() -> tuple[Recorder, Pool]:
        async with RawServer(answering(*segments, then=then)) as server:
            pool = pool_of(server)
            exchange = await ask(pool)
            assert pool.idle == 0
            await all_closed(pool)
            return exchange, pool

    result: tuple[Recorder, Pool] = no_leaks(main)
    return result


# The answer, whatever pieces it comes in


@pytest.mark.parametrize(("answer", "body"), [(PLAIN, b"hello"), (SSE, b'data: {"a"}\n\ndata: [DONE]\n\n')])
def test_an_answer_cut_at_every_byte_is_the_same_answer(no_leaks: Runs, answer: bytes, body: bytes) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            for at in range(1, len(answer)):
                await peer.request()
                await peer.send(answer[:at], answer[at:], gap_s=0.002)
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server)
            heads = set()
            for cut in range(1, len(answer)):
                exchange = await ask(pool)
                assert exchange.outcome == (200, body, "end"), cut
                heads.add(str(exchange.events[1]))
            assert len(heads) == 1
            assert (pool.dials, pool.reuses, pool.discarded) == (1, len(answer) - 2, 0)
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("answer", [PLAIN, SSE])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_closed_at_every_byte_ends_exactly_once_and_rightly(
    no_leaks: Runs, answer: bytes, how: str
) -> None:
    head = answer.index(b"\r\n\r\n") + 4
    kind = "eof" if how == "close" else "reset"

    async def main() -> None:
        places = iter(range(len(answer) + 1))

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer[: next(places)])
            await asyncio.sleep(0.004)  # an RST overtakes what the other side has not read yet
            getattr(peer, how)()

        async with RawServer(script) as server:
            pool = pool_of(server)
            for at in range(len(answer) + 1):
                exchange = await ask(pool)
                expected = None if at == len(answer) else ("body" if at >= head else "head", kind)
                assert exchange.loss == expected, at
            await all_closed(pool)
            assert pool.stale_retries <= 1

    no_leaks(main)


def test_each_piece_is_handed_on_as_it_comes(no_leaks: Runs) -> None:
    async def main() -> None:
        told = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + b"\r\n3\r\nabc\r\n")
            await told.wait()  # the rest leaves only when the first piece has arrived
            await peer.send(b"3\r\ndef\r\n0\r\n\r\n")
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = begin(pool)
            await exchange.until("body")
            assert exchange.events[-1] == ("body", b"abc")
            told.set()
            await exchange.over()
            assert exchange.events[-2:] == [("body", b"def"), ("end",)]
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", "end")),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", (204, b"", "end")),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", (304, b"", "end")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", (302, b"", "end")),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", (200, b"hi", "end")),
        (b"HTTP/1.1 599 X\r\nContent-Length: 0\r\n\r\n", (599, b"", "end")),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi", (200, b"hi", "end")),
        (CHUNKED + b"Trailer: X\r\n\r\n2;ext=1\r\nhi\r\n0\r\nX: y\r\n\r\n", (200, b"hi", "end")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 8 + PLAIN, (200, b"hello", "end")),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n" + PLAIN, (200, b"hello", "end")),
    ],
)
def test_an_unusual_but_lawful_answer_is_delivered_and_its_connection_kept(
    no_leaks: Runs, answer: bytes, expected: tuple[Any, ...]
) -> None:
    async def main() -> None:
        async with RawServer(answering(answer)) as server:
            pool = pool_of(server)
            assert (await ask(pool)).outcome == expected
            assert (await ask(pool)).outcome == expected
            assert (pool.dials, pool.reuses, pool.discarded) == (1, 1, 0)
            await all_closed(pool)

    no_leaks(main)


def header_lines(count: int, size: int) -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(count))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\nraw",
        b"HTTP/1.1 102 Processing\r\n\r\n" + PLAIN,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + PLAIN,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
        CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\n" + header_lines(257, 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + header_lines(1, 65_536) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + header_lines(64, 1_024) + b"\r\n",
        b"HTTP/1.1 200 " + b"a" * 70_000,
    ],
)
def test_an_unlawful_answer_is_a_protocol_loss_before_any_of_it_is_delivered(no_leaks: Runs, answer: bytes) -> None:
    exchange, pool = outcome_of(no_leaks, answer)
    assert exchange.loss == ("head", "protocol"), exchange.events
    assert exchange.names() == ["connected", "lost"]
    assert pool.open == 0


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\n",
        b"2\r\nhiX\r\n",
        b"ffffffffffffffffff\r\n",
        b"2\nhi\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"2;" + b"e" * 70_000,
        b"0\r\nX: " + b"t" * 70_000,
        b"0\r\n" + header_lines(257, 1) + b"\r\n",
    ],
)
def test_a_broken_body_is_a_protocol_loss_and_never_an_end(no_leaks: Runs, rest: bytes) -> None:
    exchange, _ = outcome_of(no_leaks, CHUNKED + b"\r\n2\r\nok\r\n", rest)
    assert exchange.loss == ("body", "protocol")
    assert exchange.body.startswith(b"ok")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\nall", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nall"]
)
def test_an_answer_without_length_ends_with_the_connection(no_leaks: Runs, answer: bytes) -> None:
    exchange, pool = outcome_of(no_leaks, answer, b" of it", then="close")
    assert exchange.outcome == (200, b"all of it", "end")
    assert pool.discarded == 0


def test_an_answer_without_length_that_is_reset_is_lost(no_leaks: Runs) -> None:
    exchange, _ = outcome_of(no_leaks, b"HTTP/1.1 200 OK\r\n\r\nall", b"", then="reset")
    assert exchange.outcome == (200, b"all", ("body", "reset"))


# The request


def test_the_request_arrives_byte_for_byte(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(answering(PLAIN)) as server:
            endpoint = Endpoint.from_url(server.url + "/base/", api_key="secret")
            pool = Pool(asyncio.get_running_loop(), endpoint, connect_ns=SECOND_NS)
            exchange = Recorder()
            head = endpoint.request_head("/v1/x", b"Accept: */*\r\nX-Name: J\xfcrgen\r\n", 3)
            pool.send(head, b"abc", exchange)
            await exchange.over()
            await all_closed(pool)
            assert bytes(server.peers[0].received) == (
                b"POST /base/v1/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: keep-alive\r\n"
                b"Authorization: Bearer secret\r\nAccept: */*\r\nX-Name: J\xfcrgen\r\nContent-Length: 3\r\n\r\nabc"
                % server.port
            )

    no_leaks(main)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/", b"X: a\r\n\r\n"),
        ("/", b"X: a\r\n\r\nGET / HTTP/1.1\r\n"),
        ("/", b"X: a"),
        ("/", b"X: a\r"),
        ("/", b"X: a\rY: b\r\n"),
        ("/", b"\r\n"),
        ("/a b", b""),
        ("/a\r\n", b""),
        ("/a\x7f", b""),
        ("/\xfc", b""),
        ("http://other/", b""),
        ("", b""),
    ],
)
def test_a_head_that_would_not_be_one_request_is_refused(path: str, lines: bytes) -> None:
    endpoint = Endpoint.from_url("http://node")
    with pytest.raises(ValueError, match=r"."):
        endpoint.request_head(path, lines, 0)


def test_host_header_and_secrets_of_an_endpoint() -> None:
    endpoint = Endpoint.from_url("http://[::1]:8000", api_key="secret")
    assert b"Host: [::1]:8000\r\n" in endpoint.request_head("/", b"", 0)
    assert b"Host: node\r\n" in Endpoint.from_url("https://node").request_head("/", b"", 0)
    assert "secret" not in repr(endpoint)
    with pytest.raises(ValueError, match="header Authorization"):
        Endpoint.from_url("http://node", api_key="a\nb")
    for url in ("ftp://node", "http://", "http://user:key@node", "http://node/?a", "http://node/a b", "http://node:x"):
        with pytest.raises(ValueError, match=r"."):
            Endpoint.from_url(url)
