"""Who is served next, seen at the node; and which node, seen at the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from rig import Rig, routed

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
ONE_SLOT = MockSettings(name="one", slots=1, ttft_ms=5, token_ms=5, batch_ms=0, tokens=1)
FAIR_ORDER = ["A1", "B1", "A2", "B2", "A3", "A4", "A5"]
ARRIVAL_ORDER = ["A1", "A2", "A3", "A4", "A5", "B1", "B2"]


async def serve(rig: Rig, busy: str, prompts: list[str]) -> list[str]:
    """Keep the slot busy with the first, let the others arrive one by one; the order in which all began."""
    tasks = [rig.later(busy, user=busy[0], max_tokens=60)]
    await rig.until(lambda: rig.running() == 1)
    for count, prompt in enumerate(prompts, 1):
        tasks.append(rig.later(prompt, user=prompt[0]))
        await rig.until(lambda count=count: rig.waiting() == count)
    answers = await asyncio.gather(*tasks)
    assert {answer.status for answer in answers} == {200}
    return rig.started()


@pytest.mark.parametrize(
    ("policy", "order"), [("wfq", FAIR_ORDER), ("round_robin", FAIR_ORDER), ("fifo", ARRIVAL_ORDER)]
)
def test_users_that_wait_for_one_busy_node_are_served_by_the_policy(
    no_leaks: Run, policy: str, order: list[str]
) -> None:
    async def main() -> None:
        async with routed([ONE_SLOT], queue={"policy": policy}) as rig:
            assert await serve(rig, "other", ARRIVAL_ORDER) == ["other", *order]

    no_leaks(main)


@pytest.mark.parametrize(
    ("policy", "order"), [("wfq", FAIR_ORDER), ("round_robin", FAIR_ORDER), ("fifo", ARRIVAL_ORDER)]
)
def test_a_request_that_started_at_once_counts_as_a_turn(no_leaks: Run, policy: str, order: list[str]) -> None:
    async def main() -> None:
        async with routed([ONE_SLOT], queue={"policy": policy}) as rig:
            assert await serve(rig, ARRIVAL_ORDER[0], ARRIVAL_ORDER[1:]) == order

    no_leaks(main)


def test_a_user_of_weight_two_gets_two_turns_to_the_others_one(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([ONE_SLOT], users={"A": {"weight": 2}}) as rig:
            order = await serve(rig, "other", ["A1", "A2", "A3", "A4", "A5", "A6", "B1", "B2", "B3", "B4"])
            assert [prompt[0] for prompt in order[1:7]].count("A") == 4

    no_leaks(main)


def test_twelve_requests_one_after_another_over_four_idle_nodes_split_evenly(no_leaks: Run) -> None:
    async def main() -> None:
        quick = [MockSettings(name=f"n{i}", slots=4, ttft_ms=1, token_ms=0, tokens=1) for i in range(4)]
        async with routed(quick) as rig:
            for number in range(12):
                assert (await rig.chat(str(number))).status == 200
            assert [len(rig.started(node)) for node in range(4)] == [3, 3, 3, 3]

    no_leaks(main)


def test_a_node_at_90_percent_kv_use_loses_to_one_at_10_percent(no_leaks: Run) -> None:
    async def main() -> None:
        nodes = [MockSettings(name=name, slots=8, ttft_ms=1, token_ms=0, tokens=1) for name in ("hot", "cool")]
        async with routed(nodes) as rig:
            rig.mocks[0].kv, rig.mocks[1].kv = 0.9, 0.1
            gpu = {"hot": 0.9, "cool": 0.1}

            def known() -> bool:
                return all(node["gpu_load"] == gpu[node["name"]] for node in rig.router.registry.describe())

            await rig.until(known, "that the router knows the load")
            for number in range(6):
                assert (await rig.chat(str(number))).status == 200
            assert [len(rig.started(node)) for node in range(2)] == [0, 6]

    no_leaks(main)
