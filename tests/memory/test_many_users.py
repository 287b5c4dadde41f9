"""A million users over time, a thousand at a time: nothing grows with the number of those that were here once.

The core takes all its memory at the start, so what could grow is the number of places in use. A user that has left
keeps one while it owes, and where new users come without end, so that virtual time hardly moves, that is long: then
the table fills up, and whoever owes least is forgotten. The tables on the Python side are those of identity and prices.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.config import load
from fairlead.core import memory
from fairlead.core import scheduler as core
from fairlead.identity import CACHED_MAX, Identity
from fairlead.policy import USERS_MAX, TokenPrices
from fairlead.wire.headers import Headers

USERS = 1_000_000
ACTIVE = 1_000
WAITING, RUNNING = 2 * ACTIVE, 96  # requests: nobody has more than two
SETTLED = 100_000  # users after which everything has the size that it keeps
GROWTH_MAX_BYTES = 2 << 20  # of the process from there on: two bytes for each user that came and left
SANITIZED = os.environ.get("FAIRLEAD_RIG") == "asan"  # it keeps what was freed for a while, to see who uses it


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


class Town:
    """Two pools, and a third one with two tiers and a team in each of them, which share a limit. Users come by number,
    and stay until their one or two requests have ended."""

    def __init__(self, users: int, flows_max: int) -> None:
        limits = {"waiting_max": WAITING, "running_max": RUNNING, "nodes_max": 3, "pools_max": 3}
        self.s = core.Scheduler(**limits, groups_max=4, limits_max=1, flows_max=flows_max)
        self.limit = self.s.add_limit(0, 12)
        pools = [self.s.add_pool(0) for _ in range(3)]
        tiers = [self.s.add_group(0, 2, weight) for weight in (4, 1)]
        teams = [self.s.add_group(0, tier, 1, 0, self.limit) for tier in tiers]
        self.places = [0, 1, *tiers, *teams]
        for number in range(3):
            node = self.s.add_node(0, 32)
            self.s.set_node_pools(0, node, [pools[number], pools[number - 1]])
            self.s.set_node_state(0, node, core.UP)
        self.users, self.came, self.now = users, 0, 0
        self.done = Counter()
        self.owner: dict[int, int] = {}  # of each open request
        self.open: dict[int, int] = {}  # requests of each user that is here
        self.running: deque[int] = deque()
        self.undecided: deque[int] = deque()  # will be cancelled if they still wait then

    def arrive(self) -> None:
        user = self.came
        self.came += 1
        self.open[user] = 1 + (user % 3 == 0)
        for number in range(self.open[user]):
            place = self.places[(user + number * (user % 5 == 0)) % 6]
            handle = self.s.submit(self.now, place, user, 1 + user % 4, 2, 1, 9, core.NEVER, user % 2, 0)
            assert handle > 0  # nobody is refused because of those that have left
            self.owner[handle] = user
            if user % 11 == 0:
                self.undecided.append(handle)

    def end(self, handle: int) -> None:
        user = self.owner.pop(handle)
        self.open[user] -= 1
        if not self.open[user]:
            del self.open[user]

    def turn(self) -> None:
        """Some requests end, most of them dearer than was thought; then there are as many users as before again."""
        self.now += 1
        for _ in range(min(48, len(self.running))):
            handle = self.running.popleft()
            user = self.owner[handle]
            if user % 97 == 0 and self.now % 2:
                assert self.s.requeue(self.now, handle)
                self.done["requeued"] += 1
            else:
                assert self.s.finish(self.now, handle, core.COMPLETED, 2 + user * 7 % 9)
                self.done["dearer"] += user * 7 % 9 > 0
                self.end(handle)
        while len(self.undecided) > 40:
            handle = self.undecided.popleft()
            if self.s.cancel(self.now, handle):
                self.done["cancelled"] += 1
                self.end(handle)
        while len(self.open) < ACTIVE and self.came < self.users:
            self.arrive()
        self.running += [handle for _, handle, _ in self.s.drain(self.now)]


@needs_proc
@pytest.mark.parametrize(("users", "debts"), [(USERS, 4_096), (USERS // 5, 100)])
def test_the_scheduler_keeps_its_size_however_many_have_been_here(users: int, debts: int) -> None:
    """debts: places in the table beyond what can wait and run. 4,096 is what there is unless one says otherwise."""
    flows_max = WAITING + RUNNING + debts
    town = Town(users, flows_max)
    blocks, settled, peak, looked = memory.blocks_in_use(), 0, 0, 0
    while town.open or town.came < users:
        town.turn()
        counters = town.s.counters()
        assert len(town.open) <= counters["users"] <= counters["flows"] <= flows_max
        peak = max(peak, counters["flows"])
        if town.came >= looked + SETTLED:
            looked = town.came
            town.s.check()
            settled = settled or resident_bytes()
    growth = resident_bytes() - settled
    print(f"{peak:,} flows at most; {growth:,} bytes more since the first {SETTLED:,} users; {dict(town.done)}")
    assert peak == flows_max and min(town.done[name] for name in ("dearer", "requeued", "cancelled")) > users // 500
    assert SANITIZED or growth < GROWTH_MAX_BYTES
    assert memory.blocks_in_use() == blocks
    counters = town.s.counters()
    assert [counters[name] for name in ("waiting", "waiting_bytes", "running", "flows", "users")] == [0] * 5
    assert town.s.limit(town.limit)["running"] == 0
    town.s.check()


NOBODY = Headers()


def peaks_of(step: Callable[[int], object], count: int) -> tuple[int, int]:
    """The process's largest sizes during the first third of that many steps, and afterwards."""
    largest = [0, 0]
    for number in range(count):
        step(number)
        if number % 1_000 == 999:
            later = number >= count // 3
            largest[later] = max(largest[later], resident_bytes())
    return largest[0], largest[1]


@needs_proc
@pytest.mark.skipif(SANITIZED, reason="the sanitizer keeps what was freed")
def test_identity_keeps_its_size_however_many_names_and_addresses_it_has_seen() -> None:
    """Every other one is named by a proxy, the others are known by their address: each cache is full six times. (Fewer
    than a million, for digests take time.)"""
    identity, names = Identity(load(None, env={})), 200_000

    def step(number: int) -> None:
        if number % 2:
            identity.user(Headers([("X-User-Id", f"user-{number}")]), "127.0.0.1", None)
        else:
            identity.user(NOBODY, f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", None)

    assert names // 2 > 3 * CACHED_MAX
    first, later = peaks_of(step, names)
    print(f"{later - first:,} bytes more")
    assert later - first < GROWTH_MAX_BYTES


@needs_proc
@pytest.mark.skipif(SANITIZED, reason="the sanitizer keeps what was freed")
def test_the_price_list_keeps_its_size_however_many_users_have_had_answers() -> None:
    prices = TokenPrices({"input": 1.0, "cached_input": 1.0, "output": 2.0})
    assert USERS > 30 * USERS_MAX
    first, later = peaks_of(lambda number: prices.learn(number << 40, number % 1_000), USERS)
    print(f"{later - first:,} bytes more")
    assert later - first < GROWTH_MAX_BYTES
