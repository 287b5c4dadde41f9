"""The tree of places over the real core: made when asked for, bounded, and for cheap requests beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fairlead.config import TeamConfig, load
from fairlead.core.scheduler import COMPLETED, DOWN, DRAINING, NEVER, UP, Scheduler
from fairlead.driver import Driver
from fairlead.places import CHEAP_SLOTS, NoRoom, Shape
from pure.held_request import Request

HIGH, NORMAL, LOW = range(3)
TEAMS = {"red": TeamConfig(2, 3), "blue": TeamConfig(1, 0)}
TIERED = Shape(tiers=(16, 4, 1), teams=TEAMS)


class Lab:
    """One pool and one node with one slot, which is up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, shape: Shape, **limits: Any) -> None:
        limits = {"groups_max": 20, "limits_max": 8, "pools_max": 8} | limits
        self.group_numbers = range(limits["pools_max"], limits["pools_max"] + limits["groups_max"])
        self.scheduler = Scheduler(waiting_max=100, running_max=100, **limits)
        self.driver = Driver(loop, self.scheduler, lambda: 0, requests_max=200, shape=shape)
        self.pool = self.driver.add_pool()
        self.node = self.driver.add_node(1)
        self.driver.set_node_pools(self.node, [self.pool])
        self.driver.set_node_state(self.node, UP)

    def place(self, tier: int = NORMAL, team: str | None = None, pool: int | None = None) -> int:
        found, place = self.driver.find_place(self.pool if pool is None else pool, tier, team, False)
        assert found == (self.pool if pool is None else pool)
        return place

    def submit(self, tier: int = NORMAL, team: str | None = None, *, cheap: bool = False, user: int = 1) -> Request:
        request = Request(*self.driver.find_place(self.pool, tier, team, cheap), user)
        assert self.driver.submit(request) == 0
        return request

    def groups(self) -> int:
        """As many as the core has."""
        found = 0
        for group in self.group_numbers:
            try:
                self.scheduler.group(group)
            except ValueError:
                continue
            found += 1
        return found


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_groups_are_made_when_they_are_asked_for_and_once(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, TIERED)
    assert lab.groups() == 0
    normal, red = lab.place(), lab.place(LOW, "red")
    assert lab.groups() == 3  # normal, low, and red below low
    assert (lab.place(), lab.place(LOW, "red")) == (normal, red)
    weights = [lab.scheduler.group(place)["weight"] for place in (normal, lab.place(LOW), red)]
    assert weights == [4, 1, 2]


def test_without_tiers_teams_stand_below_the_pool(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, Shape(teams=TEAMS))
    assert lab.place(HIGH) == lab.place(LOW) == lab.pool
    assert lab.place(HIGH, "red") == lab.place(LOW, "red") != lab.pool
    assert lab.groups() == 1


def test_groups_without_requests_make_room_and_their_parents_stay(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, TIERED, groups_max=3)
    kept = lab.submit(HIGH)
    for tier, team in ((NORMAL, "red"), (LOW, "blue"), (NORMAL, "blue"), (LOW, "red"), (HIGH, "red")):
        lab.place(tier, team)
        assert lab.groups() <= 3
    lab.driver.check()
    assert lab.place(HIGH) == kept.place


def test_the_parent_of_a_group_in_the_making_does_not_make_room_for_it(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, TIERED, groups_max=4)
    lab.submit(HIGH)
    lab.submit(HIGH, "red")
    lab.place(NORMAL)
    blue = lab.place(LOW, "blue")  # in the place of the normal tier, below the low one
    assert (lab.groups(), lab.place(LOW, "blue")) == (4, blue)
    waiting = lab.submit(LOW, "blue")
    assert lab.scheduler.group(lab.place(LOW))["waiting"] == 1
    assert waiting.place == blue
    with pytest.raises(NoRoom, match="groups_max"):
        lab.place(LOW, "red")


def test_where_all_groups_have_requests_there_is_no_room(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, TIERED, groups_max=2)
    requests = [lab.submit(HIGH), lab.submit(LOW)]
    with pytest.raises(NoRoom, match="groups_max"):
        lab.place(NORMAL)
    with pytest.raises(NoRoom, match="groups_max"):
        lab.place(LOW, "red")
    lab.driver.finish(requests[0], COMPLETED, 1)
    assert not lab.driver.finish(requests[0], COMPLETED, 1)
    lab.driver.cancel(requests[1])
    assert lab.place(NORMAL, "red")


def test_a_pool_goes_with_its_groups_its_limit_and_its_twin(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, Shape(tiers=(1, 1, 1), teams=TEAMS, pool_running_max=1), pools_max=4, limits_max=3)
    cheap = lab.submit(cheap=True)
    lab.driver.set_node_pools(lab.node, [])
    assert not lab.driver.is_unused(lab.pool), "its twin has a request"
    lab.driver.finish(cheap, COMPLETED, 1)
    for _ in range(5):
        pool = lab.driver.add_pool()
        lab.place(LOW, "red", pool)
        lab.driver.find_place(pool, LOW, None, True)
        assert lab.driver.is_unused(pool)
        lab.driver.remove_pool(pool)
        assert lab.driver.pools() == [0, 1]
    assert (lab.driver.pool_name(0), lab.driver.pool_name(1)) == ("0", "0-cheap")
    assert lab.groups() == 0


def test_without_room_for_a_twin_there_is_no_room(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, TIERED, pools_max=1)
    with pytest.raises(NoRoom, match="pools_max"):
        lab.driver.find_place(lab.pool, NORMAL, None, True)


def test_a_pool_that_can_not_be_added_leaves_no_limit(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, Shape(pool_running_max=1), pools_max=1, limits_max=2)
    for _ in range(3):
        with pytest.raises(ValueError, match="pools_max"):
            lab.driver.add_pool()


def test_cheap_requests_have_slots_and_users_of_their_own(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, TIERED)
    running, waiting = lab.submit(), lab.submit()
    cheap = [lab.submit(cheap=True) for _ in range(CHEAP_SLOTS + 1)]
    assert (running.node, waiting.node) == (lab.node, 0)
    assert [request.node for request in cheap] == [lab.node] * CHEAP_SLOTS + [0]
    assert lab.driver.node_numbers(lab.node) | {"leases": 1, "cheap_leases": CHEAP_SLOTS} == lab.driver.node_numbers(
        lab.node
    )
    twin = cheap[0].pool
    assert lab.driver.user_numbers(lab.pool, 1) == {"waiting": 1, "running": 1}
    assert lab.driver.user_numbers(twin, 1) == {"waiting": 1, "running": CHEAP_SLOTS}
    assert lab.driver.position(cheap[-1]) == lab.driver.position(waiting) == 1


@pytest.mark.parametrize("state", [DOWN, DRAINING])
def test_both_halves_of_a_node_share_its_fate(loop: asyncio.AbstractEventLoop, state: int) -> None:
    lab = Lab(loop, TIERED)
    lab.driver.set_node_state(lab.node, state)
    cheap = lab.submit(cheap=True)
    assert cheap.node == 0
    assert not lab.driver.has_usable_node(cheap.pool)
    lab.driver.set_node_state(lab.node, UP)
    assert cheap.node == lab.node
    other = lab.driver.add_pool()
    lab.driver.set_node_pools(lab.node, [other])
    late = lab.submit(cheap=True)
    assert late.node == 0, "the node has left the pool"
    lab.driver.set_node_pools(lab.node, [other, lab.pool])
    assert late.node == lab.node
    assert lab.driver.remove_node(lab.node)
    assert not lab.driver.remove_node(lab.node)
    assert not lab.driver.set_node_state(lab.node, UP)
    assert not lab.driver.set_node_pools(lab.node, [])
    assert lab.driver.node_numbers(lab.node) == {}
    assert lab.submit(cheap=True).node == 0
    successor = lab.driver.add_node(1)
    lab.driver.set_node_pools(successor, [lab.pool])
    lab.driver.set_node_state(successor, UP)
    assert lab.driver.node_numbers(successor)["cheap_leases"] == 1


def test_a_strict_pool_s_users_are_counted_over_its_tiers(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, Shape(tiers=(1, 1, 1), promote_after_ns=NEVER, teams=TEAMS))
    for tier, team in ((HIGH, None), (LOW, None), (LOW, "red")):
        lab.submit(tier, team)
    assert lab.driver.user_numbers(lab.pool, 1) == {"waiting": 2, "running": 1}


def test_the_shape_follows_the_policy(tmp_path: Any) -> None:
    def shape(queue: str) -> Shape:
        path = tmp_path / "fairlead.yaml"
        path.write_text("nodes: [http://127.0.0.1:1]\nteams: {red: {weight: 5, max_in_flight: 2}}\n" + queue)
        return Shape.of(load(path, env={}))

    weighed, even = {"red": TeamConfig(5, 2)}, {"red": TeamConfig(1, 2)}
    assert shape("") == Shape((16, 4, 1), None, weighed, 0)
    assert shape("queue: {policy: token_wfq, tiers: {low: 2}}") == Shape((16, 4, 2), None, weighed, 0)
    strict = "tier_policy: strict, promote_after: 1s, max_in_flight_per_pool: 7"
    assert shape(f"queue: {{policy: round_robin, {strict}}}") == Shape((16, 4, 1), 10**9, even, 7)
    assert shape(f"queue: {{policy: fifo, {strict}}}") == Shape((), None, even, 7)
