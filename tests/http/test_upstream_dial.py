"""From ``send`` to a connection: dialling, TLS, nodes that leave or speak too early, and aborts in between."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from raw_server import Peer, RawServer, refused_port, silent
from upstream_recorder import SECOND_NS, all_closed, ask, begin, pool_at, pool_of, settled

from fairlead.upstream import why_not_connected

Runs = Callable[[Callable[[], Awaitable[Any]]], Any]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 1024 * 1024


@contextmanager
def blackhole() -> Iterator[str]:
    """The URL of a port whose backlog is full: Linux drops further SYNs without a word."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        plug.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(plug.getsockname())
        try:
            yield f"http://127.0.0.1:{plug.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


# Dialling


def test_a_refused_connection_is_told_after_send_returned(no_leaks: Runs) -> None:
    async def main() -> None:
        pool = pool_at(f"http://127.0.0.1:{await refused_port()}")
        exchange = begin(pool)
        assert exchange.events == []
        await exchange.over()
        assert (exchange.loss, exchange.names(), pool.open) == (("connect", "refused"), ["lost"], 0)
        pool.close()

    no_leaks(main)


def test_a_connection_that_is_not_accepted_times_out(no_leaks: Runs) -> None:
    async def main() -> None:
        with blackhole() as url:
            loop = asyncio.get_running_loop()
            pool, start = pool_at(url, connect_s=0.2), loop.time()
            exchange = await ask(pool)
            assert exchange.loss == ("connect", "timeout")
            assert 0.19 < loop.time() - start < 0.6
            pool.close()

    no_leaks(main)


def test_a_tls_handshake_that_stalls_times_out(no_leaks: Runs, tls_contexts: Contexts) -> None:
    async def main() -> None:
        async with RawServer(silent) as server:
            pool = pool_at(server.url.replace("http", "https"), 0.2, tls_contexts[1])
            assert (await ask(pool)).loss == ("connect", "timeout")
            assert await server.peers[0].gone()
            pool.close()

    no_leaks(main)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_node_that_can_not_prove_itself_gets_no_request(
    no_leaks: Runs, tls_contexts: Contexts, trusted: bool
) -> None:
    """Plain HTTP where TLS is asked for, and a certificate that nobody we trust has signed."""

    async def main() -> None:
        async def babble(peer: Peer) -> None:
            await peer.until(lambda: bool(peer.received))
            await peer.send(PLAIN)
            await peer.gone()

        server_of = RawServer(babble) if trusted else RawServer(silent, tls=tls_contexts[0])
        async with server_of as server:
            url = f"https://127.0.0.1:{server.port}"
            pool = pool_at(url, 1.0, tls_contexts[1] if trusted else ssl.create_default_context())
            exchange = await ask(pool)
            assert (exchange.loss, exchange.names()) == (("connect", "protocol"), ["lost"])
            assert all(b"POST" not in peer.received for peer in server.peers)
            pool.close()

    no_leaks(main)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "refused"),
        (OSError(errno.EHOSTUNREACH, "x"), "refused"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "refused"),
        (UnicodeError("label too long"), "refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "reset"),
        (TimeoutError(), "timeout"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "timeout"),
        (ssl.SSLCertVerificationError("x"), "protocol"),
        (OSError(errno.EMFILE, "x"), "internal"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "internal"),
        (KeyError("x"), "internal"),
    ],
)
def test_why_there_is_no_connection(error: Exception, kind: str) -> None:
    assert why_not_connected(error)[:2] == ("connect", kind)


def test_abort_while_dialling_cancels_the_dial_and_forgets_the_request(no_leaks: Runs) -> None:
    async def main() -> None:
        with blackhole() as url:
            pool = pool_at(url)
            for pause_s in (None, 0.0, 0.05):  # before the task has run at all, just after, and in the middle
                exchange = begin(pool)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
                exchange.link.abort()
                exchange.link.abort()
                await asyncio.sleep(0.02)
                assert exchange.events == []
                gone = weakref.ref(exchange)
                del exchange
                gc.collect()
                assert gone() is None
                assert not pool._dials
            pool.close()

    no_leaks(main)


@pytest.mark.parametrize("turns", range(8))
def test_abort_in_any_turn_of_the_loop_while_a_connection_comes_about(
    no_leaks: Runs, tls_contexts: Contexts, turns: int
) -> None:
    async def main() -> None:
        for tls in (None, tls_contexts):
            async with RawServer(silent, tls=tls and tls[0]) as server:
                pool = pool_of(server, tls and tls[1])
                exchange = begin(pool)
                for _ in range(turns):
                    await asyncio.sleep(0)
                seen = list(exchange.events)
                exchange.link.abort()
                await asyncio.sleep(0.03)
                assert exchange.events == seen
                await settled(pool)
                for peer in server.peers:
                    assert await peer.gone()
                pool.close()

    no_leaks(main)


@pytest.mark.parametrize("turns", range(8))
def test_a_dial_ends_once_when_the_time_is_up_in_the_turn_that_connects(no_leaks: Runs, turns: int) -> None:
    """uvloop then closes the transport without a connection_lost: whoever waited for that would wait for ever."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.until(lambda: peer.ended is not None or b"{}" in peer.received)
            await peer.send(PLAIN if not peer.ended else b"")
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server, connect_ns=SECOND_NS // 20)
            exchange = begin(pool)
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.06)  # noqa: ASYNC251 - a loop that was held up
            await exchange.over()
            assert exchange.loss in (None, ("connect", "timeout"))
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("how", ["close", "reset", "banner"])
def test_a_node_that_leaves_or_speaks_before_it_is_asked(no_leaks: Runs, how: str) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            if how == "banner":
                peer.transport.write(b"220 mail.example ESMTP\r\n")
                await peer.gone()
            else:
                getattr(peer, how)()

        async with RawServer(script) as server:
            pool = pool_of(server)
            for _ in range(10):
                exchange = await ask(pool)
                assert exchange.lost is not None
                assert exchange.lost.phase in ("connect", "send", "head")
                assert exchange.lost.kind in (("protocol",) if how == "banner" else ("eof", "reset"))
            assert (pool.idle, pool.discarded) == (0, 0)
            await all_closed(pool)

    no_leaks(main)


# TLS


def test_two_exchanges_over_one_tls_connection(no_leaks: Runs, tls_contexts: Contexts) -> None:
    body = os.urandom(2 * MIB)

    async def main() -> None:
        async def script(peer: Peer) -> None:
            for _ in range(2):
                assert (await peer.request()).endswith(body)
                await peer.send(PLAIN)
            await peer.gone()

        async with RawServer(script, tls=tls_contexts[0]) as server:
            pool = pool_of(server, tls_contexts[1])
            for reused in (False, True):
                exchange = await ask(pool, body)
                assert (exchange.outcome, exchange.reused) == ((200, b"hello", "end"), [reused])
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("how", ["close", "cut", "reset"])
@pytest.mark.parametrize("answer", [b"", PLAIN[:20], PLAIN[:-1], STREAM + b"2\r\nhi\r\n"])
def test_half_an_answer_over_tls_is_lost_however_the_node_leaves(
    no_leaks: Runs, tls_contexts: Contexts, how: str, answer: bytes
) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)
            await asyncio.sleep(0.02)
            getattr(peer, how)()

        async with RawServer(script, tls=tls_contexts[0]) as server:
            pool = pool_of(server, tls_contexts[1])
            exchange = await ask(pool)
            assert exchange.lost is not None
            assert exchange.lost.phase == ("body" if b"\r\n\r\n" in answer else "head")
            assert exchange.lost.kind in ("eof", "reset")
            await all_closed(pool)

    no_leaks(main)


def test_an_answer_without_length_over_tls_ends_only_with_a_close_notify(
    no_leaks: Runs, tls_contexts: Contexts
) -> None:
    async def main() -> None:
        def script_of(how: str) -> Callable[[Peer], Awaitable[None]]:
            async def script(peer: Peer) -> None:
                await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall")
                await asyncio.sleep(0.02)
                getattr(peer, how)()

            return script

        async with RawServer(script_of("close"), script_of("cut"), tls=tls_contexts[0]) as server:
            pool = pool_of(server, tls_contexts[1])
            assert (await ask(pool)).outcome == (200, b"all", "end")
            cut = await ask(pool)
            # The standard library's TLS reports both alike; the router runs on uvloop.
            if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
                assert cut.outcome == (200, b"all", ("body", "reset"))
            await all_closed(pool)

    no_leaks(main)
