"""Users who flood a router and users who wait their turn: what the fairness tests and benches/flood.py are made of."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from rig import CHAT, Answer, Rig, chat_body

from fairlead.mocknode import tokens_in

FLOOD = 200  # requests that a flooder has outstanding, always


def nearest_rank(values: Sequence[float], part: float) -> float:
    """The percentile by nearest rank: of fewer than 100 values, the 99th is the largest."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


@asynccontextmanager
async def outstanding(count: int, request: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """So many of these requests are always under way; each that ends is followed by the next. Then all leave."""

    async def again() -> None:
        while True:
            await request()

    tasks = [asyncio.ensure_future(again()) for _ in range(count)]
    try:
        yield
        failed = [task.exception() for task in tasks if task.done()]
        assert not failed, failed[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_byte_s(rig: Rig, body: bytes, patience_s: float) -> float:
    """Seconds from sending a polite user's request to the first byte of its answer's body; the answer is then read.

    Fails if it waits in the queue for longer than patience_s."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    headers = {"X-User-Id": "polite", "X-Queue-Timeout-Ms": str(int(patience_s * 1000))}
    async with rig.session.post(rig.url + CHAT, data=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.content.readany()
        first = loop.time() - begun
        await response.read()
        return first


@dataclass
class Flooded:
    """What a polite user saw, in seconds: times to first byte, alone and beside the flood, and the service times of
    the flooder's requests, which took longer than its own where a node slows down with its load."""

    alone: float
    first_byte: list[float]
    service: float

    @property
    def bound(self) -> float:
        return self.alone + 1.5 * self.service

    @property
    def p99(self) -> float:
        return nearest_rank(self.first_byte, 0.99)


async def beside_a_flood(rig: Rig, body: bytes, count: int, patience_s: float) -> Flooded:
    """One user keeps FLOOD requests outstanding, another sends its own one at a time, ``count`` of them."""
    alone = nearest_rank([await first_byte_s(rig, body, patience_s) for _ in range(5)], 0.5)
    seen: list[float] = []
    async with outstanding(FLOOD, lambda: flooder(rig, body)):
        await rig.until(lambda: rig.waiting() >= FLOOD - 20, "that the flood is there")
        ended, spent = served(rig)
        for _ in range(count):
            seen.append(await first_byte_s(rig, body, patience_s))
            assert rig.waiting() >= FLOOD - 20
        ended, spent = served(rig)[0] - ended, served(rig)[1] - spent
    return Flooded(alone, seen, spent / ended)


def served(rig: Rig) -> tuple[int, float]:
    """Requests that a node is done with, and the seconds that it had them, all together."""
    sums = rig.router.meter.hour.sums(rig.router.driver.now_ns())
    return sums.ended, sums.processed_ns / 1e9


async def flooder(rig: Rig, body: bytes) -> None:
    answer = await rig.request("POST", CHAT, data=body, headers={"X-User-Id": "flooder"})
    assert answer.status == 200, answer.body


async def waits_longer_than(rig: Rig, body: bytes, wait_s: float) -> Answer:
    """The answer that a polite user gets beside the flood if it does not want to wait longer."""
    async with outstanding(FLOOD, lambda: flooder(rig, body)):
        await rig.until(lambda: rig.waiting() >= FLOOD - 20, "that the flood is there")
        limit = {"X-User-Id": "polite", "X-Queue-Timeout-Ms": str(int(wait_s * 1000))}
        return await rig.request("POST", CHAT, data=body, headers=limit)


# Who gets how much ---------------------------------------------------------------------------------


async def started_since(rig: Rig, skipped: int, count: int) -> Counter[str]:
    """Tokens of each user in the next ``count`` requests that the first node begins, after some that are skipped."""
    await until_started(rig, skipped)
    before = tokens_of(rig)
    await until_started(rig, count)
    got = tokens_of(rig)
    got.subtract(before)
    return got


async def until_started(rig: Rig, count: int) -> None:
    log, loop = rig.mocks[0]._log, asyncio.get_running_loop()
    begun, wanted = loop.time(), len(log) + count
    while len(log) < wanted:
        assert loop.time() - begun < 300, f"the node has begun {len(log)} of {wanted} requests within five minutes"
        await asyncio.sleep(0.01)


def tokens_of(rig: Rig) -> Counter[str]:
    """What the first node says it has done for each user: prompt and answer, also of those who left."""
    found: Counter[str] = Counter()
    for entry in rig.mocks[0]._log:
        found[entry["user"]] += tokens_in(entry["prompt"]) + entry["made"]
    return found


def mixed(rig: Rig, user: str, prompt: tuple[int, int], answer: tuple[int, int]) -> Callable[[], Awaitable[None]]:
    """Requests of a user with prompts and answers of so many tokens, drawn evenly; every other one is streamed."""
    draw, turn = random.Random(user), itertools.count()

    async def request() -> None:
        fields = {"max_tokens": draw.randint(*answer), "stream": next(turn) % 2 == 0, "user": user}
        body = chat_body("x" * 4 * draw.randint(*prompt), **fields)
        answered = await rig.request("POST", CHAT, data=body, headers={"X-User-Id": user})
        assert answered.status == 200, answered.body

    return request


def streamed(rig: Rig, user: str, answer: int, leaves_after: int) -> Callable[[], Awaitable[None]]:
    """Streams of a user who leaves as soon as he has seen so many events."""
    body = chat_body("x" * 40, user=user, stream=True, max_tokens=answer)

    async def request() -> None:
        async with rig.session.post(rig.url + CHAT, data=body, headers={"X-User-Id": user}) as response:
            assert response.status == 200, await response.text()
            seen = 0
            async for line in response.content:
                seen += b'"content"' in line
                if seen == leaves_after:
                    break

    return request


async def race(rig: Rig, answer: int, events: int, count: int) -> Counter[str]:
    """Tokens of an honest user and of one who leaves each stream one event before its end."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(outstanding(8, streamed(rig, "honest", answer, 0)))
        await stack.enter_async_context(outstanding(8, streamed(rig, "leaver", answer, events - 1)))
        return await started_since(rig, 20, count)
