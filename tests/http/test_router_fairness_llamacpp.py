"""A flood in front of a real engine: llama.cpp's server with four slots and answers of about a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest
from crowd import beside_a_flood, waits_longer_than
from rig import CHAT, Rig, routed

from engines.llama import IS_THERE, WHY_NOT, llama

Run = Callable[[Any], Any]
pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.measures,
    pytest.mark.skipif(not IS_THERE, reason=WHY_NOT),
    pytest.mark.parametrize("no_leaks", ["uvloop"], indirect=True),
]
SLOTS = 4
SERVICE_S = 0.8  # as it is on this machine now; what it was during the flood is measured
TOKENS_MAX = 4000  # what a slot holds
POLITE = 8  # requests, so that what is called p99 is the largest of 8


def body(tokens: int) -> bytes:
    said = [{"role": "user", "content": "Hi there"}]
    return orjson.dumps({"model": "tiny", "messages": said, "max_tokens": tokens, "ignore_eos": True, "stream": True})


async def long_enough(port: int) -> int:
    """Tokens that take so long when all slots are in use."""
    tokens = 128

    async def once(session: aiohttp.ClientSession) -> None:
        async with session.post(f"http://127.0.0.1:{port}{CHAT}", data=body(tokens)) as response:
            assert response.status == 200
            await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            begun = time.monotonic()
            await asyncio.gather(*(once(session) for _ in range(SLOTS)))
            took_s = time.monotonic() - begun
            if took_s >= SERVICE_S or tokens == TOKENS_MAX:
                return tokens
            tokens = min(TOKENS_MAX, int(tokens * min(2.0, 1.1 * SERVICE_S / took_s)))


def test_a_flood_delays_another_by_one_service_time_unless_the_policy_is_fifo(no_leaks: Run) -> None:
    async def main() -> None:
        with llama("--parallel", str(SLOTS)) as (port, _):
            asked = body(await long_enough(port))
            entry = {"name": "llama", "url": f"http://127.0.0.1:{port}", "slots": SLOTS}

            async def flood(rig: Rig, policy: str) -> None:
                seen = await beside_a_flood(rig, asked, POLITE, 8 * SERVICE_S)
                print(f"{policy}: alone {seen.alone:.3f}, service {seen.service:.3f}, largest {seen.p99:.3f} s")
                assert seen.p99 <= seen.bound

            for policy in ("wfq", "token_wfq"):
                async with routed(raw=[entry], queue={"policy": policy}) as rig:
                    await flood(rig, policy)
            async with routed(raw=[entry], queue={"policy": "fifo"}) as rig:
                assert (await waits_longer_than(rig, asked, 4 * SERVICE_S)).code == "queue_timeout"

    no_leaks(main)
