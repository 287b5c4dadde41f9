"""Fair shares over HTTP, with the real router: a user who floods delays nobody else, weights hold, and leaving early
saves nothing. ``python benches/flood.py`` does the same for longer.

Service times are those of simulated nodes, which sleep: a machine that is busy with other things adds milliseconds to
them. The loop is uvloop, as it is when the router serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from crowd import Flooded, beside_a_flood, mixed, outstanding, race, started_since, waits_longer_than
from rig import chat_body, routed

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
pytestmark = [pytest.mark.slow, pytest.mark.measures, pytest.mark.parametrize("no_leaks", ["uvloop"], indirect=True)]

# A first token after 50 ms and eleven more: 600 ms.
NODE = MockSettings(name="one", slots=4, ttft_ms=50, token_ms=50, batch_ms=0, tokens=12)
SERVICE_S = 0.6
BODY = chat_body("x" * 40, stream=True)
POLITE = 20  # requests, so that what is called p99 is the largest of 20
QUICK = replace(NODE, ttft_ms=1, token_ms=1)


def test_a_flood_of_one_user_delays_another_by_one_service_time_unless_the_policy_is_fifo(no_leaks: Run) -> None:
    async def flood(policy: str) -> Flooded:
        async with routed([NODE], queue={"policy": policy}) as rig:
            return await beside_a_flood(rig, BODY, POLITE, 8 * SERVICE_S)

    async def fifo() -> str:
        async with routed([NODE], queue={"policy": "fifo"}) as rig:
            return (await waits_longer_than(rig, BODY, 4 * SERVICE_S)).code

    async def main() -> None:
        wfq, token_wfq, under_fifo = await asyncio.gather(flood("wfq"), flood("token_wfq"), fifo())
        for policy, seen in (("wfq", wfq), ("token_wfq", token_wfq)):
            print(f"{policy}: alone {seen.alone:.3f} s, p99 {seen.p99:.3f} s, at most {seen.bound:.3f} s")
            assert seen.service == pytest.approx(SERVICE_S, rel=0.2)
            assert seen.p99 <= seen.alone + 1.5 * SERVICE_S
        assert under_fifo == "queue_timeout"

    no_leaks(main)


def test_a_weight_of_three_is_three_times_the_tokens(no_leaks: Run) -> None:
    """Also where the answers of one are three times as long as the other's, and half of them are plain."""

    async def main() -> None:
        queue = {"policy": "token_wfq", "prices": {"input": 1, "output": 1}}
        async with routed([QUICK], queue=queue, users={"heavy": {"weight": 3}}) as rig, AsyncExitStack() as stack:
            await stack.enter_async_context(outstanding(12, mixed(rig, "heavy", (10, 30), (5, 25))))
            await stack.enter_async_context(outstanding(12, mixed(rig, "light", (10, 30), (30, 60))))
            got = await started_since(rig, 50, 800)
            print(f"800 requests: {dict(got)}, {got['heavy'] / got['light']:.3f} times")
            assert got["heavy"] / got["light"] == pytest.approx(3, rel=0.05)

    no_leaks(main)


@pytest.mark.parametrize("kind", ["usage at the end", "no usage", "four tokens an event"])
def test_who_streams_nearly_all_of_each_answer_and_leaves_gets_no_more(no_leaks: Run, kind: str) -> None:
    async def main() -> None:
        node = replace(QUICK, per_event=4 if kind == "four tokens an event" else 1)
        entry = {"include_usage": kind != "no usage"}
        async with routed([node], entry=entry, queue={"policy": "token_wfq"}) as rig:
            got = await race(rig, 100, 100 // node.per_event, 200)
            ratio = got["leaver"] / got["honest"]
            print(f"{kind}: {ratio:.3f}")
            assert ratio == pytest.approx(1, rel=0.05)

    no_leaks(main)
