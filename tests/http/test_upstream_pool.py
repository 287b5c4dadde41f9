"""Kept connections: which are used again, which never, and what becomes of a request that met a dead one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from raw_server import Peer, RawServer
from upstream_recorder import SECOND_NS, LoopSpy, Recorder, all_closed, ask, begin, pool_of, settled

from fairlead.upstream import Endpoint, Lost, Pool

Runs = Callable[[Callable[[], Awaitable[Any]]], Any]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
MILLISECOND_NS = 1_000_000


async def serving(peer: Peer) -> None:
    """A script: every request is answered with PLAIN, until the other side leaves."""
    while True:
        await peer.until(lambda: peer.ended is not None or b"\r\n\r\n" in peer.received[peer.taken :])
        if peer.ended:
            return
        await peer.request()
        await peer.send(PLAIN)


# Reuse


def test_the_warmest_connection_is_reused_without_a_task_or_a_timer(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(serving) as server:
            spy: Any = LoopSpy()
            pool = Pool(spy, Endpoint.from_url(server.url), connect_ns=SECOND_NS)
            for exchange in [begin(pool) for _ in range(4)]:
                await exchange.over()
                assert exchange.reused == [False]
            assert (pool.idle, pool.open, spy.tasks, spy.timers) == (4, 4, 4, 1)
            warmest = server.peers[3]
            before = warmest.taken
            for _ in range(3):
                exchange = await ask(pool)
                assert (exchange.outcome, exchange.reused) == ((200, b"hello", "end"), [True])
            assert warmest.taken > before
            assert (pool.dials, pool.reuses, spy.tasks, spy.timers) == (4, 3, 4, 1)
            await all_closed(pool)

    no_leaks(main)


def test_no_more_than_the_bound_are_kept(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(serving) as server:
            pool = pool_of(server, idle_max=2)
            for exchange in [begin(pool) for _ in range(5)]:
                await exchange.over()
            await settled(pool, 2)
            assert (pool.idle, pool.dials, pool.discarded) == (2, 5, 0)
            await all_closed(pool)

    no_leaks(main)


def test_an_idle_connection_is_dropped_when_its_time_is_over(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(serving) as server:
            pool = pool_of(server, idle_ns=100 * MILLISECOND_NS)
            exchanges = [begin(pool), begin(pool)]
            for exchange in exchanges:
                await exchange.over()
            await asyncio.sleep(0.06)
            await ask(pool)  # one of the two is warm again
            await asyncio.sleep(0.06)
            assert (pool.idle, pool.open) == (1, 1)
            await settled(pool, 0)
            assert (pool.idle, pool.discarded) == (0, 0)
            await all_closed(pool)

    no_leaks(main)


def test_an_overdue_connection_is_not_used_although_the_timer_is_late(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(serving) as server:
            pool = pool_of(server, idle_ns=50 * MILLISECOND_NS)
            await ask(pool)
            time.sleep(0.07)  # noqa: ASYNC251 - a loop that was held up
            exchange = begin(pool)
            await exchange.over()
            assert (exchange.reused, pool.reuses) == ([False], 0)
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
def test_a_connection_that_the_node_means_to_close_is_not_kept(no_leaks: Runs, answer: bytes) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)
            await peer.gone()

        async with RawServer(script) as server:
            pool = pool_of(server)
            assert (await ask(pool)).outcome == (200, b"hi", "end")
            assert (pool.idle, pool.discarded) == (0, 0)
            await all_closed(pool)

    no_leaks(main)


# Poison: bytes that nobody asked for


@pytest.mark.parametrize("surplus", [EVIL, b"x", b"\r\n", b"\n", b"\r", b"\0", EVIL + EVIL])
@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, b"HTTP/1.1 204 No Content\r\n\r\n"])
def test_bytes_behind_an_answer_reach_nobody(no_leaks: Runs, answer: bytes, surplus: bytes) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer + surplus)
            await peer.gone()

        async with RawServer(script, serving) as server:
            pool = pool_of(server)
            poisoned = await ask(pool)
            assert poisoned.names()[-1] == "end"
            assert poisoned.body in (b"hello", b"hi", b"")
            assert (pool.idle, pool.discarded) == (0, 1)
            clean = await ask(pool)
            assert (clean.outcome, clean.reused) == ((200, b"hello", "end"), [False])
            assert b"EVIL" not in poisoned.body + clean.body
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("noise", [EVIL, b"x", b"\r\n", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
def test_any_byte_on_an_idle_connection_discards_it_at_once(no_leaks: Runs, noise: bytes) -> None:
    """A late answer that nobody asked for must not become the next user's answer."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(PLAIN, noise, gap_s=0.05)
            assert await peer.gone()

        async with RawServer(script, serving) as server:
            pool = pool_of(server)
            assert (await ask(pool)).body == b"hello"
            assert pool.idle == 1
            await settled(pool, 0)
            assert (pool.idle, pool.discarded) == (0, 1)
            assert (await ask(pool)).outcome == (200, b"hello", "end")
            assert (pool.dials, pool.reuses) == (2, 0)
            await all_closed(pool)

    no_leaks(main)


def test_a_stray_answer_that_the_loop_has_not_read_yet_is_seen_before_reuse(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(serving) as server:
            pool = pool_of(server)
            await ask(pool)
            plug = server.peers[0].transport.get_extra_info("socket")
            os.write(plug.fileno(), EVIL)  # into the kernel, past the loop, which does not turn before the next line
            exchange = begin(pool)
            await exchange.over()
            assert (exchange.body, exchange.reused) == (b"hello", [False])
            assert (pool.dials, pool.reuses, pool.discarded) == (2, 0, 1)
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize("how", ["close", "half_close", "reset"])
def test_a_node_that_leaves_an_idle_connection_is_noticed_at_once(no_leaks: Runs, how: str) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(PLAIN)
            await asyncio.sleep(0.05)
            getattr(peer, how)()
            await peer.gone()

        async with RawServer(script, serving) as server:
            pool = pool_of(server)
            await ask(pool)
            await settled(pool, 0)
            assert (pool.idle, pool.discarded) == (0, 1)
            assert (await ask(pool)).reused == [False]
            assert pool.stale_retries == 0
            await all_closed(pool)

    no_leaks(main)


# Stale reuse


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [2, 3 * 1024 * 1024])
def test_a_reused_connection_that_dies_unanswered_is_replaced_once(no_leaks: Runs, how: str, size: int) -> None:
    body = os.urandom(size)

    async def main() -> None:
        async def first(peer: Peer) -> None:
            await peer.request()
            await peer.send(PLAIN)
            await peer.head()
            getattr(peer, how)()

        async with RawServer(first, serving) as server:
            pool = pool_of(server)
            await ask(pool)
            exchange = await ask(pool, body)
            assert (exchange.outcome, exchange.reused) == ((200, b"hello", "end"), [True, False])
            assert (pool.dials, pool.reuses, pool.stale_retries, pool.discarded) == (2, 1, 1, 1)
            assert server.peers[1].received.endswith(b"\r\n\r\n" + body)
            await all_closed(pool)

    no_leaks(main)


def test_the_replacement_is_not_replaced(no_leaks: Runs) -> None:
    async def main() -> None:
        async def first(peer: Peer) -> None:
            await peer.request()
            await peer.send(PLAIN)
            await peer.request()
            peer.close()

        async def second(peer: Peer) -> None:
            await peer.request()
            peer.close()

        async with RawServer(first, second) as server:
            pool = pool_of(server)
            await ask(pool)
            exchange = await ask(pool)
            assert (exchange.loss, exchange.reused) == (("head", "eof"), [True, False])
            assert (pool.dials, pool.stale_retries, len(server.peers)) == (2, 1, 2)
            await all_closed(pool)

    no_leaks(main)


@pytest.mark.parametrize(("start", "loss"), [(b"H", ("head", "eof")), (PLAIN[:-1], ("body", "eof"))])
def test_one_byte_of_an_answer_forbids_the_replacement(no_leaks: Runs, start: bytes, loss: tuple[str, str]) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(PLAIN)
            await peer.request()
            await peer.send(start)
            peer.close()

        async with RawServer(script) as server:
            pool = pool_of(server)
            await ask(pool)
            exchange = await ask(pool)
            assert (exchange.loss, exchange.reused) == (loss, [True])
            assert (pool.dials, pool.stale_retries) == (1, 0)
            await all_closed(pool)

    no_leaks(main)


def test_a_fresh_connection_that_dies_unanswered_is_lost(no_leaks: Runs) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.close()

        async with RawServer(script) as server:
            pool = pool_of(server)
            assert (await ask(pool)).loss == ("head", "eof")
            assert (pool.dials, pool.stale_retries, pool.discarded) == (1, 0, 0)
            await all_closed(pool)

    no_leaks(main)


# Sending again from the callbacks, and closing


class Chain(Recorder):
    """Sends a successor from its own end or loss."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.successor: Recorder | None = None

    def on_end(self) -> None:
        self.successor = begin(self.pool)
        super().on_end()

    def on_lost(self, reason: Lost) -> None:
        self.successor = begin(self.pool)
        super().on_lost(reason)


def test_the_end_of_one_exchange_may_begin_the_next_on_the_same_connection(no_leaks: Runs) -> None:
    async def main() -> None:
        async with RawServer(serving) as server:
            pool = pool_of(server)
            chain = Chain(pool)
            begin(pool, exchange=chain)
            await chain.over()
            assert chain.successor is not None
            await chain.successor.over()
            assert (chain.outcome, chain.successor.outcome) == ((200, b"hello", "end"),) * 2
            assert (chain.successor.reused, pool.dials) == ([True], 1)
            await all_closed(pool)

    no_leaks(main)


def test_the_loss_of_one_exchange_may_begin_the_next(no_leaks: Runs) -> None:
    async def main() -> None:
        async def garbage(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"garbage")
            await peer.gone()

        async with RawServer(garbage, serving) as server:
            pool = pool_of(server)
            chain = Chain(pool)
            begin(pool, exchange=chain)
            await chain.over()
            assert chain.successor is not None
            await chain.successor.over()
            assert (chain.loss, chain.successor.outcome) == (("head", "protocol"), (200, b"hello", "end"))
            await all_closed(pool)

    no_leaks(main)


def test_closing_cuts_the_idle_and_lets_the_busy_finish(no_leaks: Runs) -> None:
    async def main() -> None:
        told = asyncio.Event()

        async def slow(peer: Peer) -> None:
            await peer.request()
            await told.wait()
            await peer.send(PLAIN)
            await peer.gone()

        async with RawServer(slow, serving) as server:
            pool = pool_of(server)
            busy = begin(pool)
            await busy.until("connected")
            await ask(pool)
            assert (pool.idle, pool.open) == (1, 2)
            pool.close()
            await settled(pool, 1)
            told.set()
            await busy.over()
            assert busy.outcome == (200, b"hello", "end")
            late = begin(pool)
            assert late.events == []  # the answer comes by a callback, never from inside send
            await late.over()
            assert late.loss == ("connect", "refused")
            await settled(pool, 0)
            assert (pool.idle, pool.dials, pool.discarded) == (0, 2, 0)

    no_leaks(main)
