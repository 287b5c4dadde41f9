"""``serve --demo``: a router, three simulated nodes, three users of unequal appetite, and a table of who gets what.

Promise: everything but the nodes is what a real fleet gets: the requests go through the public port, the router sees
the nodes over HTTP only. Who waits and who runs is read from the scheduler, slots and scores from the registry; what
was served, and the waits, are what the answers said to the users. Nothing is left when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp
import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fairlead.app import Router
from fairlead.config import Config, NodeConfig, load
from fairlead.effective import address_text
from fairlead.identity import Identity
from fairlead.mocknode import MockNode, MockSettings, serving
from fairlead.serve import AddressTaken, Signals, example, local_url, start, started, unless
from fairlead.wire.headers import Headers

MODEL: Final = "demo"
NODES: Final = (
    MockSettings("sim-fast", slots=4, ttft_ms=60, token_ms=8, batch_ms=1, kv_tokens=512),
    MockSettings("sim-mid", slots=3, ttft_ms=90, token_ms=14, batch_ms=2, kv_tokens=256),
    MockSettings("sim-slow", slots=2, ttft_ms=150, token_ms=25, batch_ms=3, kv_tokens=96),
)
APPETITES: Final = {"flood": 40, "team": 8, "solo": 1}
TOKENS: Final = 24
WINDOW_S: Final = 10.0
REMEMBERED_MAX: Final = 10_000
FRAME_S: Final = 0.25
SNAPSHOT_S: Final = 1.0
PAUSE_S: Final = 0.5  # after an answer that was none
GRACE_S: Final = 0.3


@dataclass(slots=True)
class Served:
    at_s: float
    wait_ms: int
    tokens: int


@dataclass(slots=True)
class Person:
    """A simulated user. recent: what was served within the window."""

    name: str
    clients: int
    key: int
    served: int = 0
    refused: int = 0
    recent: deque[Served] = field(default_factory=lambda: deque(maxlen=REMEMBERED_MAX))

    def forget(self, before_s: float) -> None:
        while self.recent and self.recent[0].at_s < before_s:
            self.recent.popleft()

    def wait_ms(self, quantile: float) -> int | None:
        waits = sorted(each.wait_ms for each in self.recent)
        return waits[min(int(quantile * len(waits)), len(waits) - 1)] if waits else None


class Load:
    """What the users send: each of their clients asks again as soon as it was answered."""

    def __init__(self, url: str, people: list[Person]) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._people = people
        self._loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:
            clients = [
                asyncio.create_task(self._client(session, person, number))
                for person in self._people
                for number in range(person.clients)
            ]
            try:
                yield
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, session: aiohttp.ClientSession, person: Person, number: int) -> None:
        message = {"role": "user", "content": f"{person.name} {number}"}
        body = orjson.dumps({"model": MODEL, "messages": [message], "max_tokens": TOKENS})
        headers = {"X-User-Id": person.name, "Content-Type": "application/json"}
        while True:
            try:
                async with session.post(self._url, data=body, headers=headers) as response:
                    answer = orjson.loads(await response.read())
            except (aiohttp.ClientError, orjson.JSONDecodeError):
                answer = {}
            if "usage" not in answer:
                person.refused += 1
                await asyncio.sleep(PAUSE_S)
                continue
            wait_ms = int(response.headers.get("X-Queue-Wait-Ms", 0))
            person.served += 1
            person.recent.append(Served(self._loop.time(), wait_ms, answer["usage"]["completion_tokens"]))


class Screen:
    """What is shown, made anew each time."""

    def __init__(self, router: Router, people: list[Person], policy: str) -> None:
        self._router = router
        self._people = people
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._begun_s = self._loop.time()

    def head(self) -> str:
        addresses = self._router.addresses
        public, admin = addresses["public"], addresses.get("admin")
        lines = [f"{started(address_text(public))}, admin {'off' if admin is None else local_url(admin)}"]
        lines += [f"demo: simulated nodes, policy {self._policy}; try, from another terminal:"]
        lines += [f"  {line}" for line in example(local_url(public), MODEL)]
        return "\n".join([*lines, ""])

    def body(self) -> Group:
        now_s = self._loop.time()
        elapsed_s = now_s - self._begun_s
        for person in self._people:
            person.forget(now_s - WINDOW_S)
        title = f"after {elapsed_s:.0f} s; rates, waits and shares over the last {min(elapsed_s, WINDOW_S):.0f} s"
        return Group(Text(title), self._users(max(min(elapsed_s, WINDOW_S), 1.0)), self._nodes())

    def _users(self, window_s: float) -> Table:
        names = ("clients", "waiting", "running", "served", "req/min", "tok/s", "wait p50", "p95", "share")
        table = _table("user", *names)
        pool = self._router.registry.pool_of(MODEL)
        everything = sum(len(person.recent) for person in self._people)
        for person in self._people:
            numbers = {} if pool is None else self._router.driver.user_numbers(pool, person.key)
            count = len(person.recent)
            table.add_row(
                person.name,
                str(person.clients),
                str(numbers.get("waiting", 0)),
                str(numbers.get("running", 0)),
                str(person.served),
                f"{count * 60 / window_s:.0f}",
                f"{sum(each.tokens for each in person.recent) / window_s:.0f}",
                _wait(person.wait_ms(0.50)),
                _wait(person.wait_ms(0.95)),
                f"{count / everything:.0%}" if everything else "-",
            )
        return table

    def _nodes(self) -> Table:
        table = _table("simulated node", "state", "slots in use", "KV use", "score")
        for node in self._router.registry.describe():
            load = node["gpu_load"]
            table.add_row(
                node["name"],
                node["state"],
                f"{node['slots_in_use']}/{node['slots']}",
                "-" if load is None else f"{load:.0%}",
                f"{node['score']:.2f}",
            )
        return table

    def summary(self) -> str:
        counters = self._router.driver.counters()
        refused = sum(person.refused for person in self._people)
        served = ", ".join(f"{person.name} {person.served}" for person in self._people)
        return f"ended: served {served}; not served {refused}; the router counts {counters['completed']} completed"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def _wait(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:.2f}s"


async def demo(signals: Signals, overrides: dict[str, Any], seconds: float | None) -> int:
    """Run until a signal comes or the time is over. Raises ClickException."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    async with AsyncExitStack() as stack:
        nodes = []
        for settings in NODES:
            port = await stack.enter_async_context(serving(MockNode(settings)))
            nodes.append(NodeConfig(settings.name, f"http://127.0.0.1:{port}", slots=settings.slots))
        config = load(None, nodes=[node.url for node in nodes], env={})
        quiet = replace(config.log, requests="none")  # the table is all there is to see
        config = replace(config, nodes=tuple(nodes), log=quiet, **overrides)
        router = await unless(signals.stop, start_somewhere(config, overrides))
        if router is None:
            return signals.exit_code
        stack.push_async_callback(router.stop, GRACE_S)
        identity = Identity(config)
        people = [
            Person(name, clients, identity.user(Headers([("X-User-Id", name)]), "127.0.0.1", None).key)
            for name, clients in APPETITES.items()
        ]
        screen = Screen(router, people, config.queue.policy)
        load_ = Load(local_url(router.addresses["public"]), people)
        await stack.enter_async_context(load_.running())
        await show(screen, signals, seconds)
    return signals.exit_code


async def start_somewhere(config: Config, overrides: dict[str, Any]) -> Router:
    """A started router; where an address is in use that nobody asked for, any other does."""
    while True:
        router = Router(config)
        try:
            await start(router, config)
        except AddressTaken as error:
            if error.which in overrides or not error.in_use:
                raise
            anywhere = ("127.0.0.1", 0)
            config = replace(config, listen=anywhere) if error.which == "listen" else replace(config, admin=anywhere)
        else:
            return router


async def show(screen: Screen, signals: Signals, seconds: float | None) -> None:
    """Draw until a signal comes or the time is over; then say what it came to."""
    console = Console(highlight=False, markup=False)
    live = console.is_terminal and not console.is_dumb_terminal and sys.stdout.isatty()
    frame_s = FRAME_S if live else SNAPSHOT_S
    loop = asyncio.get_running_loop()
    end_s = math.inf if seconds is None else loop.time() + seconds
    console.print(screen.head(), soft_wrap=True)
    with Live(console=console, auto_refresh=False) if live else nullcontext() as picture:
        ended = False
        while not ended:
            signalled = await signals.stopped(max(min(frame_s, end_s - loop.time()), 0))
            ended = signalled or loop.time() >= end_s
            if picture is not None:
                picture.update(screen.body(), refresh=True)
            else:
                console.print(screen.body())
    console.print(screen.summary(), soft_wrap=True)
