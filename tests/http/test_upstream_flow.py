"""Dialling, TLS, backpressure both ways, aborting at every stage, and exchanges whose callbacks raise."""

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
from pathlib import Path
from typing import Any

import pytest
from raw_server import Peer, RawServer, refused_port, self_signed, silent
from upstream_recorder import SECOND_NS, Recorder, all_closed, ask, begin, pool_of

from fairlead.upstream import Endpoint, Pool, why_not_connected
from fairlead.upstream_connection import RECEIVE_BUFFER_BYTES, SLICE_BYTES

Runs = Callable[[Callable[[], Awaitable[Any]]], Any]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    directory: Path = tmp_path_factory.mktemp("tls")
    return self_signed(directory)


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


def pool_at(url: str, connect_s: float = 1.0, context: ssl.SSLContext | None = None) -> Pool:
    endpoint = Endpoint.from_url(url, ssl_context=context)
    return Pool(asyncio.get_running_loop(), endpoint, connect_ns=int(connect_s * SECOND_NS))


def transport_of(exchange: Recorder) -> asyncio.Transport:
    transport: asyncio.Transport = exchange.link._transport  # type: ignore[union-attr]
    return transport


async def settled(pool: Pool) -> None:
    for _ in range(200):
        if pool.open:
            await asyncio.sleep(0.005)
    assert pool.open == 0


async def plain(peer: Peer) -> None:
    await peer.request()
    await peer.send(PLAIN)
    await peer.gone()


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


def test_a_tls_handshake_that_stalls_times_out(no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        async with RawServer(silent) as server:
            pool = pool_at(server.url.replace("http", "https"), 0.2, contexts[1])
            assert (await ask(pool)).loss == ("connect", "timeout")
            assert await server.peers[0].gone()
            pool.close()

    no_leaks(main)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_node_that_can_not_prove_itself_gets_no_request(
    no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext], trusted: bool
) -> None:
    """Plain HTTP where TLS is asked for, and a certificate that nobody we trust has signed."""

    async def main() -> None:
        async def babble(peer: Peer) -> None:
            await peer.until(lambda: bool(peer.received))
            await peer.send(PLAIN)
            await peer.gone()

        server_of = RawServer(babble) if trusted else RawServer(silent, tls=contexts[0])
        async with server_of as server:
            url = f"https://127.0.0.1:{server.port}"
            pool = pool_at(url, 1.0, contexts[1] if trusted else ssl.create_default_context())
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


# TLS


def test_two_exchanges_over_one_tls_connection(no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    body = os.urandom(2 * MIB)

    async def main() -> None:
        async def script(peer: Peer) -> None:
            for _ in range(2):
                assert (await peer.request()).endswith(body)
                await peer.send(PLAIN)
            await peer.gone()

        async with RawServer(script, tls=contexts[0]) as server:
            pool = pool_of(server, contexts[1])
            for reused in (False, True):
                exchange = await ask(pool, body)
                assert (exchange.outcome, exchange.reused) == ((200, b"hello", "end"), [reused])
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("how", ["close", "cut", "reset"])
@pytest.mark.parametrize("answer", [b"", PLAIN[:20], PLAIN[:-1], STREAM + b"2\r\nhi\r\n"])
def test_half_an_answer_over_tls_is_lost_however_the_node_leaves(
    no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext], how: str, answer: bytes
) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)
            await asyncio.sleep(0.02)
            getattr(peer, how)()

        async with RawServer(script, tls=contexts[0]) as server:
            pool = pool_of(server, contexts[1])
            exchange = await ask(pool)
            assert exchange.lost is not None
            assert exchange.lost.phase == ("body" if b"\r\n\r\n" in answer else "head")
            assert exchange.lost.kind in ("eof", "reset")
            await all_closed(pool)

    no_leaks(main)


def test_an_answer_without_length_over_tls_ends_only_with_a_close_notify(
    no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def main() -> None:
        def script_of(how: str) -> Callable[[Peer], Awaitable[None]]:
            async def script(peer: Peer) -> None:
                await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall")
                await asyncio.sleep(0.02)
                getattr(peer, how)()

            return script

        async with RawServer(script_of("close"), script_of("cut"), tls=contexts[0]) as server:
            pool = pool_of(server, contexts[1])
            assert (await ask(pool)).outcome == (200, b"all", "end")
            cut = await ask(pool)
            # The standard library's TLS reports both alike; the router runs on uvloop.
            if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
                assert cut.outcome == (200, b"all", ("body", "reset"))
            await all_closed(pool)

    no_leaks(main)


# Backpressure


def test_a_paused_exchange_stops_the_node(no_leaks: Runs) -> None:
    size = 16 * MIB

    class Slow(Recorder):
        def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
            super().on_head(status, headers)
            self.pause()
            self.pause()

    async def main() -> None:
        async def script(peer: Peer) -> None:
            plug = peer.transport.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = Slow()
            begin(pool, exchange=exchange)
            await exchange.until("head")
            await asyncio.sleep(0.1)
            delivered = len(exchange.body)
            held_by_kernel = size - server.peers[0].transport.get_write_buffer_size() - delivered
            assert delivered <= RECEIVE_BUFFER_BYTES  # no more than the one read that was under way
            assert held_by_kernel < 4 * RECEIVE_BUFFER_BYTES  # SO_RCVBUF twice over, and the sender's part
            await asyncio.sleep(0.05)
            assert len(exchange.body) == delivered
            exchange.resume()
            exchange.resume()
            await exchange.over()
            assert (len(exchange.body), exchange.loss) == (size, None)
            await all_closed(pool)

    no_leaks(main)


def test_an_exchange_that_ends_paused_leaves_a_connection_that_reads(no_leaks: Runs) -> None:
    class Paused(Recorder):
        def on_body(self, data: bytes) -> None:
            super().on_body(data)
            self.pause()

    async def main() -> None:
        async def script(peer: Peer) -> None:
            for _ in range(2):
                await peer.request()
                await peer.send(PLAIN)
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server)
            for _ in range(2):
                exchange = Paused()
                begin(pool, exchange=exchange)
                await exchange.over()
                assert exchange.outcome == (200, b"hello", "end")
            assert (pool.dials, pool.reuses) == (1, 1)
            await all_closed(pool)

    no_leaks(main)


def test_a_pause_while_dialling_holds(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(plain) as server:
            pool = pool_of(server)
            exchange = begin(pool)
            exchange.pause()
            await exchange.until("connected")
            await asyncio.sleep(0.05)
            assert exchange.names() == ["connected"]
            exchange.resume()
            await exchange.over()
            assert exchange.outcome == (200, b"hello", "end")
            await all_closed(pool)

    no_leaks(main)


def test_a_large_body_waits_in_slices_and_arrives_whole(no_leaks: Runs) -> None:
    body = os.urandom(32 * MIB)

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            peer.transport.pause_reading()
            await told.wait()
            peer.transport.resume_reading()
            peer.taken = 0
            await peer.request()
            await peer.send(PLAIN)
            await peer.gone()

        told = asyncio.Event()
        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = begin(pool, body)
            await exchange.until("connected")
            for _ in range(10):
                await asyncio.sleep(0.01)
                assert transport_of(exchange).get_write_buffer_size() <= SLICE_BYTES + 64 * 1024
            told.set()
            await exchange.over()
            assert exchange.outcome == (200, b"hello", "end")
            assert server.peers[0].received.endswith(b"\r\n\r\n" + body)
            assert pool.idle == 1
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("size", [8 * MIB, 32 * MIB])
def test_an_answer_that_comes_before_the_request_is_out_is_delivered_and_the_connection_not_kept(
    no_leaks: Runs, size: int
) -> None:
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            peer.transport.pause_reading()
            await peer.send(answer)
            await told.wait()

        told = asyncio.Event()
        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = await ask(pool, bytes(size))
            assert exchange.outcome == (413, b"no", "end")
            assert (pool.idle, pool.discarded) == (0, 0)
            await settled(pool)
            told.set()
            await all_closed(pool)

    no_leaks(main)


# Aborting


def test_abort_while_dialling_cancels_the_dial_and_forgets_the_request(no_leaks: Runs) -> None:
    async def main() -> None:
        with blackhole() as url:
            pool = pool_at(url)
            for pause_s in (None, 0.0, 0.05):  # before the task has run at all, just after, and in the middle
                exchange = begin(pool)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
                exchange.abort()
                exchange.abort()
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
    no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext], turns: int
) -> None:
    async def main() -> None:
        for tls in (None, contexts):
            async with RawServer(silent, tls=tls and tls[0]) as server:
                pool = pool_of(server, tls and tls[1])
                exchange = begin(pool)
                for _ in range(turns):
                    await asyncio.sleep(0)
                seen = list(exchange.events)
                exchange.abort()
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


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stage", ["connected", "head", "body"])
def test_abort_cuts_at_once_and_nothing_follows(
    no_leaks: Runs, contexts: tuple[ssl.SSLContext, ssl.SSLContext], stage: str, tls: bool
) -> None:
    pieces = {"connected": b"", "head": STREAM, "body": STREAM + b"2\r\nhi\r\n"}

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(pieces[stage])
            left = asyncio.ensure_future(peer.gone())
            while not left.done():
                peer.transport.write(b"1\r\nx\r\n" if stage == "body" else b"")
                await asyncio.sleep(0.005)

        async with RawServer(script, tls=contexts[0] if tls else None) as server:
            pool = pool_of(server, contexts[1] if tls else None)
            exchange = begin(pool)
            await exchange.until(stage)
            await asyncio.sleep(0.02)
            exchange.abort()
            seen = list(exchange.events)
            exchange.abort()
            exchange.pause()
            exchange.resume()
            start = asyncio.get_running_loop().time()
            await server.peers[0].gone()
            assert asyncio.get_running_loop().time() - start < 0.5
            await settled(pool)
            assert exchange.events == seen
            pool.close()

    no_leaks(main)


@pytest.mark.parametrize("callback", ["on_connected", "on_head", "on_body"])
def test_abort_from_within_a_callback(no_leaks: Runs, callback: str) -> None:
    class Leaving(Recorder):
        def _note(self, *event: Any) -> None:
            super()._note(*event)
            if f"on_{event[0]}" == callback:
                self.abort()

    async def main() -> None:
        async def script(peer: Peer) -> None:
            if callback != "on_connected":
                await peer.request()
                await peer.send(STREAM + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = Leaving()
            begin(pool, exchange=exchange)
            await exchange.until(callback.removeprefix("on_"))
            await settled(pool)
            assert exchange.names()[-1] == callback.removeprefix("on_")
            assert exchange.names().count("body") <= 1
            assert all(b"POST" not in peer.received or callback != "on_connected" for peer in server.peers)
            pool.close()

    no_leaks(main)


def test_abort_does_not_wait_for_a_node_that_does_not_read(no_leaks: Runs) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            peer.transport.pause_reading()
            await told.wait()

        told = asyncio.Event()
        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = begin(pool, bytes(32 * MIB))
            await exchange.until("connected")
            await asyncio.sleep(0.05)
            assert transport_of(exchange).get_write_buffer_size() > 0
            exchange.abort()
            await asyncio.sleep(0.01)
            assert pool.open == 0
            told.set()
            pool.close()

    no_leaks(main)


# Callbacks that raise


@pytest.mark.parametrize("callback", ["on_connected", "on_head", "on_body", "on_end", "on_lost"])
def test_a_callback_that_raises_is_reported_and_hurts_nobody_else(no_leaks: Runs, callback: str) -> None:
    class Broken(Recorder):
        def _note(self, *event: Any) -> None:
            super()._note(*event)
            if f"on_{event[0]}" == callback:
                self._over.set()
                raise KeyError(callback)

    async def main() -> None:
        async def first(peer: Peer) -> None:
            if callback != "on_connected":
                await peer.request()
                await peer.send(b"garbage" if callback == "on_lost" else PLAIN)
            if callback == "on_end":  # that one had its answer: its connection is as good as any
                await peer.request()
                await peer.send(PLAIN)
            await peer.gone()

        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with RawServer(first, plain) as server:
            pool = pool_of(server)
            broken = Broken()
            begin(pool, exchange=broken)
            await broken.over()
            assert [type(context["exception"]) for context in reported] == [KeyError]
            if callback in ("on_end", "on_lost"):
                assert broken.names()[-1] == callback.removeprefix("on_")
            else:
                assert broken.lost is not None
                assert broken.lost.kind == "internal"
            assert (await ask(pool)).outcome == (200, b"hello", "end")
            await all_closed(pool)

    no_leaks(main)


def test_an_interrupt_out_of_a_callback_is_not_swallowed() -> None:
    class Interrupted(Recorder):
        def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
            raise KeyboardInterrupt

    async def main() -> None:
        async with RawServer(plain) as server:
            begin(pool_of(server), exchange=Interrupted())
            await asyncio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
