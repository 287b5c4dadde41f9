"""Tiers and teams, seen at the node: who goes first, who gets how much, what nobody can take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from rig import MODEL, Answer, Gate, RawNode, Rig, chat_body, prompts, routed

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
HIGH = {"priority": "high"}


class Queue:
    """One slot, which is held until everybody waits."""

    def __init__(self, rig: Rig, node: RawNode, gate: Gate) -> None:
        self.rig, self.gate, self._node = rig, gate, node
        self.tasks: list[asyncio.Task[Answer]] = []

    async def fill(self, first: str, *others: tuple[str, str | None]) -> None:
        """The first user's request runs, the others (prompt, X-Priority) come one by one. A prompt is a user's name and
        a number."""
        self._ask(f"{first}0", None)
        await self.rig.until(lambda: self.rig.running() == 1)
        for count, (prompt, priority) in enumerate(others, 1):
            self._ask(prompt, priority)
            await self.rig.until(lambda count=count: self.rig.waiting() == count)

    def _ask(self, prompt: str, priority: str | None) -> None:
        headers = {} if priority is None else {"X-Priority": priority}
        self.tasks.append(self.rig.later(prompt, user=prompt.rstrip("0123456789"), headers=headers))

    async def serve(self) -> list[str]:
        """Let the node work; the prompts in the order in which it began."""
        self.gate.open.set()
        answers = await asyncio.gather(*self.tasks)
        assert {answer.status for answer in answers} == {200}
        return prompts(self._node.requests)

    async def leave(self) -> None:
        await leave(*self.tasks)
        self.gate.open.set()


async def leave(*tasks: asyncio.Task[Answer]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def queueing(**sections: Any) -> AsyncIterator[Queue]:
    gate = Gate()
    async with RawNode(gate, slots=1) as node, routed(raw=[node.entry], **sections) as rig:
        yield Queue(rig, node, gate)


def many(user: str, count: int, priority: str | None = None) -> list[tuple[str, str | None]]:
    return [(f"{user}{number}", priority) for number in range(1, count + 1)]


def counted(order: list[str]) -> dict[str, int]:
    return dict(Counter(prompt.rstrip("0123456789") for prompt in order))


# Tiers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "tiers", "shares"),
    [
        ("wfq", {}, {"H": 16, "N": 4, "L": 1}),
        ("round_robin", {}, {"H": 16, "N": 4, "L": 1}),
        ("wfq", {"high": 5, "normal": 1}, {"H": 15, "N": 3, "L": 3}),
    ],
)
def test_tiers_share_by_their_weights_and_none_starves(
    no_leaks: Run, policy: str, tiers: dict[str, int], shares: dict[str, int]
) -> None:
    async def main() -> None:
        queue = {"policy": policy, "tiers": tiers}
        users = {"H": HIGH, "L": {"priority": "low"}}
        async with queueing(queue=queue, users=users) as waiting:
            await waiting.fill("H", *many("L", 4), *many("N", 5), *many("H", 17))
            assert counted((await waiting.serve())[:21]) == shares

    no_leaks(main)


def test_under_fifo_there_are_no_tiers(no_leaks: Run) -> None:
    async def main() -> None:
        queue = {"policy": "fifo", "tier_policy": "strict"}
        async with queueing(queue=queue, users={"H": HIGH}) as waiting:
            await waiting.fill("N", ("N1", "low"), ("H1", None), ("N2", None), ("H2", "high"))
            assert await waiting.serve() == ["N0", "N1", "H1", "N2", "H2"]

    no_leaks(main)


@pytest.mark.parametrize(
    ("promote_after", "order"),
    [
        ("1h", ["H0", "H1", "H2", "H3", "H4", "H5", "H6", "N1", "L1", "L2"]),
        # One of four turns goes to the oldest that has waited for so long.
        ("1ms", ["H0", "H1", "H2", "L1", "H3", "H4", "H5", "L2", "H6", "N1"]),
    ],
)
def test_strict_tiers_go_in_order_but_for_those_that_waited_too_long(
    no_leaks: Run, promote_after: str, order: list[str]
) -> None:
    async def main() -> None:
        queue = {"tier_policy": "strict", "promote_after": promote_after}
        async with queueing(queue=queue, users={"H": HIGH}) as waiting:
            await waiting.fill("H", ("L1", "low"), ("L2", "low"), ("N1", None), *many("H", 6))
            assert await waiting.serve() == order

    no_leaks(main)


def test_a_client_may_ask_for_less_than_its_priority_and_not_for_more(no_leaks: Run) -> None:
    async def main() -> None:
        users = {"H": HIGH, "L": {"priority": "low"}}
        async with queueing(queue={"tier_policy": "strict"}, users=users) as waiting:
            lows = ("L1", "high"), ("N1", "low")
            await waiting.fill("H", *lows, ("N2", "high"), ("H1", "normal"), ("H2", None), ("H3", "high"))
            assert await waiting.serve() == ["H0", "H2", "H3", "N2", "H1", "L1", "N1"]

    no_leaks(main)


@pytest.mark.parametrize("values", [["urgent"], ["High"], [""], ["0"], ["low", "low"]])
def test_a_priority_that_is_none_is_refused(no_leaks: Run, values: list[str]) -> None:
    async def main() -> None:
        async with routed([MockSettings()]) as rig:
            headers = [("X-User-Id", "u"), *(("X-Priority", value) for value in values)]
            answer = await rig.request("POST", "/v1/chat/completions", data=chat_body(), headers=headers)
            assert (answer.status, answer.code, answer.json()["error"]["param"]) == (
                400,
                "invalid_header",
                "X-Priority",
            )

    no_leaks(main)


@pytest.mark.parametrize(
    ("within_user", "order", "place"),
    [("arrival", ["A0", "A1", "A2", "A3"], "3"), ("deadline", ["A0", "A3", "A1", "A2"], "1")],
)
def test_a_user_s_own_requests_go_by_arrival_or_by_the_end_of_their_wait(
    no_leaks: Run, within_user: str, order: list[str], place: str
) -> None:
    async def main() -> None:
        async with queueing(queue={"within_user": within_user}) as waiting:
            await waiting.fill("A", ("A1", None), ("A2", None))
            urgent = waiting.rig.later("A3", user="A", headers={"X-Queue-Timeout-Ms": "30000"})
            waiting.tasks.append(urgent)
            await waiting.rig.until(lambda: waiting.rig.waiting() == 3)
            assert await waiting.serve() == order
            assert urgent.result().headers["X-Queue-Position"] == place

    no_leaks(main)


# Teams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "shares"), [("wfq", {"A": 6, "b": 1, "c": 1, "d": 1, "e": 3}), ("round_robin", {"A": 4, "e": 4})]
)
def test_a_team_has_its_weight_s_share_however_many_its_users(
    no_leaks: Run, policy: str, shares: dict[str, int]
) -> None:
    async def main() -> None:
        teams = {"one": {"weight": 2}, "three": {}}
        users = {"A": {"team": "one"}} | {name: {"team": "three"} for name in "bcd"}
        async with queueing(queue={"policy": policy}, teams=teams, users=users) as waiting:
            await waiting.fill("A", *many("A", 9), *many("b", 4), *many("c", 4), *many("d", 4), *many("e", 4))
            got = counted((await waiting.serve())[:12])
            assert {name: got[name] for name in shares} == shares
            assert sum(got[name] for name in "bcd") == 12 - got["A"] - got["e"]

    no_leaks(main)


def test_what_a_team_may_run_counts_in_all_tiers_and_pools(no_leaks: Run) -> None:
    async def main() -> None:
        settings = [MockSettings(name=name, models=(name,), slots=4, ttft_ms=60_000) for name in ("one", "two")]
        users = {"r": {"team": "red"} | HIGH, "s": {"team": "red", "priority": "low"}}
        async with routed(settings, teams={"red": {"max_in_flight": 3}}, users=users) as rig:
            kinds = [("r", "one"), ("s", "one"), ("r", "two"), ("s", "two"), ("s", "one"), ("other", "one")]
            tasks = []
            for user, model in kinds:
                tasks.append(rig.later(user, user=user, model=model))
                await rig.until(lambda: rig.running() + rig.waiting() == len(tasks))
            assert (rig.running(), rig.waiting()) == (4, 2)
            wanted = [["r", "s", "other"], ["r"]]
            await rig.until(lambda: [rig.started(mock) for mock in (0, 1)] == wanted)
            tasks[2].cancel()  # the one in the other pool leaves
            await rig.until(lambda: len(rig.started(0)) + len(rig.started(1)) == 5)
            assert (rig.running(), rig.waiting()) == (4, 1)
            await leave(*tasks)

    no_leaks(main)


@pytest.mark.parametrize("policy", ["wfq", "fifo"])
def test_what_may_run_in_a_pool_and_of_a_team_is_limited_under_any_policy(no_leaks: Run, policy: str) -> None:
    async def main() -> None:
        settings = [MockSettings(name=name, models=(name,), slots=8, ttft_ms=60_000) for name in ("one", "two")]
        queue = {"policy": policy, "max_in_flight_per_pool": 3}
        teams, users = {"red": {"max_in_flight": 2}}, {"r": {"team": "red"}}
        async with routed(settings, queue=queue, teams=teams, users=users) as rig:
            kinds = [("r", "one")] * 3 + [("n", "one")] * 2 + [("n", "two")] * 4
            tasks = [rig.later(user, user=user, model=model) for user, model in kinds]
            await rig.until(lambda: rig.running() + rig.waiting() == len(tasks))
            await rig.until(lambda: sum(len(rig.started(mock)) for mock in (0, 1)) == 6)
            assert sorted(rig.started(0)) == ["n", "r", "r"]
            assert (rig.running(), rig.waiting()) == (6, 3)
            tokenized = await rig.request("POST", "/tokenize", data=chat_body(model="one"))
            assert (tokenized.status, tokenized.headers["X-Queue-Status"]) == (200, "direct")
            await leave(*tasks)

    no_leaks(main)


# More teams at once than there is room for --------------------------------------------------------


def test_without_room_for_a_group_a_request_is_told_to_come_back(
    no_leaks: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlead.app.GROUPS_MAX", 1)

    async def main() -> None:
        async with queueing() as waiting:
            await waiting.fill("n", ("n1", None))
            refused = await waiting.rig.chat(headers={"X-Priority": "low"})
            assert (refused.status, refused.code) == (503, "overloaded")
            assert 1 <= int(refused.headers["Retry-After"]) <= 59
            assert await waiting.serve() == ["n0", "n1"]
            assert (await waiting.rig.chat(headers={"X-Priority": "low"})).status == 200

    no_leaks(main)


def test_without_room_where_its_model_goes_a_request_stays_where_it_is(
    no_leaks: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fairlead.app.GROUPS_MAX", 1)

    async def main() -> None:
        async with queueing() as waiting:
            await waiting.fill("n", ("n1", None))
            driver = waiting.rig.router.driver
            before, after = driver.pools()[0], driver.add_pool()
            waiting.rig.router.gateway.model_moved(MODEL, "", after)
            assert "stays where its model was: there are 1 groups already" in caplog.text
            assert (driver.pool_numbers(before)["waiting"], driver.pool_numbers(after)["waiting"]) == (1, 0)
            assert await waiting.serve() == ["n0", "n1"]

    no_leaks(main)


# Places told -------------------------------------------------------------------------------------


def test_the_place_told_is_that_within_user_team_tier_and_pool(no_leaks: Run) -> None:
    async def main() -> None:
        teams, users = {"red": {"weight": 3}}, {"H": HIGH, "r": {"team": "red"}, "s": {"team": "red"}}
        async with queueing(teams=teams, users=users, queue={"max_waiting": 13}) as waiting:
            await waiting.fill("H", *many("H", 4), *many("r", 3), *many("n", 5))
            brief = {"X-Queue-Timeout-Ms": "1"}
            # s is the second of its team, where 4 wait; its second turn is the third of the tier, where 9 wait (weights
            # 3 and 1), and that the 15th of the pool (4 and 16), where only 13 wait.
            told = await waiting.rig.chat(user="s", headers=brief)
            assert (told.status, told.headers["X-Queue-Position"]) == (504, "13")
            # H is the fifth of its tier, which has 16 of 20 turns.
            assert (await waiting.rig.chat(user="H", headers=brief)).headers["X-Queue-Position"] == "7"
            # Who is refused is told the place that it would have had.
            last = waiting.rig.later(user="x")
            await waiting.rig.until(lambda: waiting.rig.waiting() == 13)
            for user, position in (("H", "7"), ("s", "14")):
                told = await waiting.rig.chat(user=user, headers={"X-Queue-Timeout-Ms": "0"})
                assert (told.status, told.headers["X-Queue-Position"]) == (429, position)
            last.cancel()
            await waiting.leave()

    no_leaks(main)
