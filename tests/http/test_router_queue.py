"""The queue's limits and times, as a client meets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from rig import Answer, Rig, routed

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
SLOW = MockSettings(name="slow", slots=1, ttft_ms=300, token_ms=0, tokens=1)
STUCK = MockSettings(name="stuck", slots=1, ttft_ms=60_000)


async def busy(rig: Rig, user: str = "busy") -> asyncio.Task[Answer]:
    task = rig.later("busy", user=user)
    await rig.until(lambda: rig.running() == 1)
    return task


async def leave(*tasks: asyncio.Task[Answer]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def check_refusal(answer: Answer, code: str, told: str = "") -> None:
    assert (answer.status, answer.code) == (429, code)
    assert 1 <= int(answer.headers["Retry-After"]) <= 59
    assert 1000 <= int(answer.headers["retry-after-ms"]) <= 59_000
    assert int(answer.headers["X-Queue-Position"]) >= 1
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_one_request_more_than_fits_is_one_refusal(no_leaks: Run, limit: int) -> None:
    async def main() -> None:
        async with routed([SLOW], queue={"max_waiting": limit}) as rig:
            first = await busy(rig)
            answers = await asyncio.gather(*(rig.chat() for _ in range(limit + 1)))
            assert sorted(answer.status for answer in answers) == [200] * limit + [429]
            check_refusal(
                next(answer for answer in answers if answer.status == 429), "queue_full", "(queue.max_waiting)"
            )
            assert (await first).status == 200

    no_leaks(main)


def test_a_user_has_a_limit_of_its_own(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW], queue={"max_waiting_per_user": 1}) as rig:
            first = await busy(rig)
            answers = await asyncio.gather(*(rig.chat(user=user) for user in "aabb"))
            assert [answer.status for answer in answers].count(200) == 2
            for answer in answers:
                if answer.status != 200:
                    check_refusal(answer, "user_queue_full", "(queue.max_waiting_per_user)")
            await first

    no_leaks(main)


def test_a_flooder_that_fills_the_queue_makes_nobody_else_be_refused(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW], queue={"max_waiting": 4}) as rig:
            first = await busy(rig)
            flood = [rig.later(user="flooder") for _ in range(4)]
            await rig.until(lambda: rig.waiting() == 4)
            polite = rig.later(user="polite")
            await rig.until(lambda: any(task.done() for task in flood))
            gone = next(task for task in flood if task.done()).result()
            check_refusal(gone, "queue_pushed_out")
            assert gone.json()["error"]["waited_ms"] >= 0
            # Who may not wait pushes nobody out.
            check_refusal(await rig.chat(user="hasty", headers={"X-Queue-Timeout-Ms": "0"}), "queue_full")
            assert (await polite).status == (await first).status == 200
            assert sorted(answer.status for answer in await asyncio.gather(*flood)) == [200] * 3 + [429]
            assert (await rig.invariants())["ledger"]["pushed_out"] == 1
            told = await rig.request("GET", rig.admin_url + "/metrics")
            assert b'fairlead_requests_total{outcome="pushed_out"} 1.0' in told.body

    no_leaks(main)


def test_overflow_reject_refuses_whoever_comes_too_late(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW], queue={"max_waiting": 1, "overflow": "reject"}) as rig:
            first = await busy(rig)
            waits = rig.later(user="flooder")
            await rig.until(lambda: rig.waiting() == 1)
            check_refusal(await rig.chat(user="polite"), "queue_full")
            assert (await waits).status == (await first).status == 200

    no_leaks(main)


def test_the_bytes_that_wait_are_bounded(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW], queue={"max_bytes": "64KiB"}) as rig:
            first = await busy(rig)
            waits = rig.later("x" * 40_000)
            await rig.until(lambda: rig.waiting() == 1)
            check_refusal(await rig.chat("x" * 40_000), "queue_full", "(queue.max_bytes)")
            assert (await waits).status == (await first).status == 200

    no_leaks(main)


def test_the_queue_timeout_is_kept_to_the_hundredth_second(no_leaks: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with routed([STUCK], queue={"timeout": "1s"}) as rig:
            first = await busy(rig)
            begun = loop.time()
            answer = await rig.chat()
            took_s = loop.time() - begun
            assert (answer.status, answer.code) == (504, "queue_timeout")
            assert 1.0 <= took_s <= 1.1
            assert 1000 <= answer.json()["error"]["waited_ms"] <= 1025
            assert "its limit is 1000 ms (X-Queue-Timeout-Ms, at most queue.timeout)" in answer.body.decode()
            assert answer.headers["x-should-retry"] == "false"
            assert answer.headers["X-Queue-Position"] == "1"
            await leave(first)

    no_leaks(main)


@pytest.mark.parametrize("header", ["X-Queue-Timeout-Ms", "X-Request-Timeout-Ms"])
def test_a_client_may_wait_for_less(no_leaks: Run, header: str) -> None:
    async def main() -> None:
        async with routed([STUCK]) as rig:
            first = await busy(rig)
            answer = await rig.chat(headers={header: "150"})
            assert (answer.status, answer.code) == (504, "queue_timeout")
            assert 150 <= answer.json()["error"]["waited_ms"] <= 175
            await leave(first)

    no_leaks(main)


def test_many_deadlines_are_each_kept(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([STUCK]) as rig:
            first = await busy(rig)
            limits = [400, 50, 225, 100, 300, 75, 150, 75]
            answers = await asyncio.gather(*(rig.chat(headers={"X-Queue-Timeout-Ms": str(ms)}) for ms in limits))
            for limit, answer in zip(limits, answers, strict=True):
                assert limit <= answer.json()["error"]["waited_ms"] <= limit + 25
            await leave(first)

    no_leaks(main)


def test_a_request_that_may_not_wait_is_dispatched_at_once_or_refused(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW]) as rig:
            never = {"X-Queue-Timeout-Ms": "0"}
            first = rig.later(headers=never)
            await rig.until(lambda: rig.running() == 1)
            refused = await rig.chat(headers=never)
            check_refusal(refused, "queue_full")
            assert "X-Queue-Timeout-Ms is 0" in refused.json()["error"]["message"]
            answer = await first
            assert (answer.status, answer.headers["X-Queue-Status"]) == (200, "direct")
            metrics = (await rig.request("GET", rig.admin_url + "/metrics")).body
            assert b'fairlead_requests_total{outcome="refused"} 1.0' in metrics
            assert b'fairlead_requests_total{outcome="cancelled"} 0.0' in metrics

    no_leaks(main)


def test_who_waited_is_told_so(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW]) as rig:
            direct = await rig.chat()
            assert direct.headers["X-Queue-Status"] == "direct"
            assert not {"X-Queue-Wait-Ms", "X-Queue-Position", "X-Estimated-Wait"} & set(direct.headers)
            first = await busy(rig)
            queued = await rig.chat(user="other")
            assert queued.headers["X-Queue-Status"] == "queued"
            assert 100 <= int(queued.headers["X-Queue-Wait-Ms"]) <= 400
            assert queued.headers["X-Queue-Position"] == queued.headers["X-Estimated-Wait"] == "1"
            assert queued.headers["Server-Timing"].startswith("queue;dur=")
            await first

    no_leaks(main)


@pytest.mark.parametrize(("policy", "place"), [("wfq", "2"), ("round_robin", "2"), ("fifo", "7")])
def test_a_light_user_is_told_its_own_place_and_the_whole_queue_under_fifo(
    no_leaks: Run, policy: str, place: str
) -> None:
    async def main() -> None:
        async with routed([STUCK], timeouts={"drain": "0s"}, queue={"policy": policy}) as rig:
            first = await busy(rig, user="heavy")
            heavy = [rig.later(user="heavy") for _ in range(6)]
            await rig.until(lambda: rig.waiting() == 6)
            light = await rig.chat(user="light", headers={"X-Queue-Timeout-Ms": "20"})
            assert light.headers["X-Queue-Position"] == place
            refused = await rig.chat(user="light", headers={"X-Queue-Timeout-Ms": "0"})
            assert refused.headers["X-Queue-Position"] == place
            await leave(first, *heavy)

    no_leaks(main)


def test_with_no_usable_node_requests_wait_for_no_node_wait(no_leaks: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        settings = MockSettings(name="goes", slots=1, ttft_ms=1, token_ms=0, tokens=1)
        async with routed([settings], queue={"no_node_wait": "300ms"}) as rig:
            node = rig.router.registry.by_handle[next(iter(rig.router.registry.handles()))[1]]
            rig.router.registry.report_connect_failure(node)
            node.wake.clear()  # no probe until its period is over
            begun = loop.time()
            later = rig.later()
            await rig.until(lambda: rig.waiting() == 1)
            assert (await later).status == 200, "the node came back within the wait"
            assert loop.time() - begun < 0.3

    no_leaks(main)


def test_what_waits_for_a_model_follows_it_into_another_pool(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW]) as rig:
            driver, first = rig.router.driver, await busy(rig)
            waits = rig.later()
            await rig.until(lambda: rig.waiting() == 1)
            before, after = rig.router.registry.pool_of("demo"), driver.add_pool()
            (_, node), *_ = rig.router.registry.handles()
            driver.set_node_pools(node, [before, after])
            rig.router.gateway.model_moved("demo", "", after)
            assert (driver.pool_numbers(before)["waiting"], driver.pool_numbers(after)["waiting"]) == (0, 1)
            assert (await rig.invariants())["ok"]
            assert (await first).status == (await waits).status == 200

    no_leaks(main)
