"""An exchange that writes down what it is told, for the tests of the upstream connection."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from raw_server import WAIT_S, RawServer

from fairlead.upstream import Endpoint, Exchange, Lost, Pool

SECOND_NS = 1_000_000_000


class Recorder(Exchange):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._over = asyncio.Event()
        self._changed = asyncio.Event()

    def on_connected(self, reused: bool) -> None:
        self._note("connected", reused)

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._note("head", status, headers)

    def on_body(self, data: bytes) -> None:
        self._note("body", data)

    def on_end(self) -> None:
        self._note("end")
        self._over.set()

    def on_lost(self, reason: Lost) -> None:
        self._note("lost", reason)
        self._over.set()

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    async def until(self, name: str) -> None:
        """Waits until an event of this name has come."""
        async with asyncio.timeout(WAIT_S):
            while name not in self.names():
                self._changed.clear()
                await self._changed.wait()

    async def over(self) -> None:
        """Waits for the end, then a little longer: a second end would show."""
        async with asyncio.timeout(WAIT_S):
            await self._over.wait()
        await asyncio.sleep(0)
        assert self.names().count("end") + self.names().count("lost") == 1, self.events

    @property
    def reused(self) -> list[bool]:
        return [event[1] for event in self.events if event[0] == "connected"]

    @property
    def status(self) -> int | None:
        return next((event[1] for event in self.events if event[0] == "head"), None)

    @property
    def body(self) -> bytes:
        return b"".join(event[1] for event in self.events if event[0] == "body")

    @property
    def lost(self) -> Lost | None:
        return next((event[1] for event in self.events if event[0] == "lost"), None)

    @property
    def loss(self) -> tuple[str, str] | None:
        return self.lost and (self.lost.phase, self.lost.kind)

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What the exchange came to, whatever pieces it came in."""
        return (self.status, self.body, self.loss or "end")


class LoopSpy:
    """The loop, counting the timers and tasks that are asked of it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timers = 0
        self.tasks = 0

    def call_at(self, *arguments: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return self.loop.call_at(*arguments)

    def create_task(self, *arguments: Any) -> asyncio.Task[Any]:
        self.tasks += 1
        return self.loop.create_task(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


def pool_of(
    server: RawServer, context: ssl.SSLContext | None = None, connect_ns: int = SECOND_NS, **options: Any
) -> Pool:
    endpoint = Endpoint.from_url(server.url, ssl_context=context)
    return Pool(asyncio.get_running_loop(), endpoint, connect_ns=connect_ns, **options)


def begin(pool: Pool, body: bytes = b"{}", exchange: Recorder | None = None) -> Recorder:
    exchange = exchange or Recorder()
    pool.send(pool.endpoint.request_head("/v1/completions", b"", len(body)), body, exchange)
    return exchange


async def ask(pool: Pool, body: bytes = b"{}") -> Recorder:
    exchange = begin(pool, body)
    await exchange.over()
    return exchange


def pool_at(url: str, connect_s: float = 1.0, context: ssl.SSLContext | None = None) -> Pool:
    endpoint = Endpoint.from_url(url, ssl_context=context)
    return Pool(asyncio.get_running_loop(), endpoint, connect_ns=int(connect_s * SECOND_NS))


async def settled(pool: Pool, open_count: int = 0) -> None:
    """Waits until the pool has that many connections open."""
    for _ in range(200):
        if pool.open != open_count:
            await asyncio.sleep(0.005)
    assert pool.open == open_count


async def all_closed(pool: Pool) -> None:
    """Closes the pool and waits until its last connection has gone."""
    pool.close()
    await settled(pool)
    assert pool.idle == 0
