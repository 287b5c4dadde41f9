"""Backpressure both ways, aborting at every stage, and exchanges whose callbacks raise."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from raw_server import Peer, RawServer
from upstream_recorder import Recorder, all_closed, ask, begin, pool_of, settled

from fairlead.upstream_connection import RECEIVE_BUFFER_BYTES, SLICE_BYTES

Runs = Callable[[Callable[[], Awaitable[Any]]], Any]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 1024 * 1024


def transport_of(exchange: Recorder) -> asyncio.Transport:
    transport: asyncio.Transport = exchange.link._transport  # type: ignore[union-attr]
    return transport


async def plain(peer: Peer) -> None:
    await peer.request()
    await peer.send(PLAIN)
    await peer.gone()


# Backpressure


def test_a_paused_exchange_stops_the_node(no_leaks: Runs) -> None:
    size = 16 * MIB

    class Slow(Recorder):
        def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
            super().on_head(status, headers)
            self.link.pause()
            self.link.pause()

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
            exchange.link.resume()
            exchange.link.resume()
            await exchange.over()
            assert (len(exchange.body), exchange.loss) == (size, None)
            await all_closed(pool)

    no_leaks(main)


def test_an_exchange_that_ends_paused_leaves_a_connection_that_reads(no_leaks: Runs) -> None:
    class Paused(Recorder):
        def on_body(self, data: bytes) -> None:
            super().on_body(data)
            self.link.pause()

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
            exchange.link.pause()
            await exchange.until("connected")
            await asyncio.sleep(0.05)
            assert exchange.names() == ["connected"]
            exchange.link.resume()
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


@pytest.mark.parametrize(("noise", "loss"), [(b"noise", ("head", "protocol")), (b"", ("send", "eof"))])
def test_a_node_that_has_said_anything_was_lost_at_its_head_however_much_was_to_be_sent(
    no_leaks: Runs, noise: bytes, loss: tuple[str, str]
) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            peer.transport.pause_reading()
            if noise:
                await peer.send(noise)
            else:
                peer.transport.write_eof()
            await told.wait()

        told = asyncio.Event()
        async with RawServer(script) as server:
            pool = pool_of(server)
            exchange = await ask(pool, bytes(8 * MIB))
            assert exchange.loss == loss
            told.set()
            await settled(pool)

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


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stage", ["connected", "head", "body"])
def test_abort_cuts_at_once_and_nothing_follows(no_leaks: Runs, tls_contexts: Contexts, stage: str, tls: bool) -> None:
    pieces = {"connected": b"", "head": STREAM, "body": STREAM + b"2\r\nhi\r\n"}

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(pieces[stage])
            left = asyncio.ensure_future(peer.gone())
            while not left.done():
                peer.transport.write(b"1\r\nx\r\n" if stage == "body" else b"")
                await asyncio.sleep(0.005)

        async with RawServer(script, tls=tls_contexts[0] if tls else None) as server:
            pool = pool_of(server, tls_contexts[1] if tls else None)
            exchange = begin(pool)
            await exchange.until(stage)
            await asyncio.sleep(0.02)
            exchange.link.abort()
            seen = list(exchange.events)
            exchange.link.abort()
            exchange.link.pause()
            exchange.link.resume()
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
                self.link.abort()

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
            exchange.link.abort()
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
