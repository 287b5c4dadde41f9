"""The scenarios of Kubernetes' API Priority and Fairness tests, as closed loops in virtual time on the real core.

A client is a number of threads. Each sends a request, which takes a second once it has been dispatched, pauses, and
sends the next one. Measured is how many slots a client holds on average. Threads start 90 ns apart and clients 20 ns,
as in those tests (queueset_test.go), and end with their number of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import pytest

from fairlead.core import scheduler as core

SECOND = 10**9


@dataclass(frozen=True)
class Client:
    threads: int
    calls: int
    pause: int  # ns from the end of a request to the next one; -1: just before the end
    joins_at_half: bool = False  # the second half of its threads start at half time, with half of the calls


@dataclass(frozen=True)
class Scenario:
    name: str
    slots: int
    seconds: int
    clients: tuple[Client, Client]
    fair: list[tuple[float, float]]  # slots of each client in the first half, and in the second if that differs
    fifo: list[tuple[float, float]]
    margin: str  # what their test allows


def slots_held(scenario: Scenario, order: int) -> list[tuple[float, ...]]:
    """Average slots of each client, in the first and the second half."""
    s = core.Scheduler(waiting_max=100, running_max=scenario.slots, order=order)
    pool = s.add_pool(0)
    node = s.add_node(0, scenario.slots)
    s.set_node_pools(0, node, [pool])
    s.set_node_state(0, node, core.UP)
    half = scenario.seconds * SECOND // 2
    held = [[0, 0] for _ in scenario.clients]  # slot-nanoseconds by half
    of: dict[int, tuple[int, int]] = {}  # handle -> client, calls left
    events: list[tuple[int, int, int | None, int, int]] = []  # time, number, handle that ends, client, calls left

    number = count()

    def at(time: int, handle: int | None, client: int, left: int) -> None:
        heappush(events, (time, next(number), handle, client, left))

    for index, client in enumerate(scenario.clients):
        for thread in range(client.threads):
            late = client.joins_at_half and thread >= client.threads // 2
            at(90 * thread + 20 * index + half * late, None, index, client.calls // (2 if late else 1))
    while events:
        now, _, ends, index, left = heappop(events)
        if ends is not None:
            assert s.finish(now, ends, core.COMPLETED, 1)
        elif left:
            handle = s.submit(now, pool, index, 1, 1, 1, 0, core.NEVER, 0, 0)
            of[handle] = index, left
        for _, handle, _ in s.drain(now):
            index, left = of.pop(handle)
            at(now + SECOND, handle, index, left)
            at(now + SECOND + scenario.clients[index].pause, None, index, left - 1)
            for part in (0, 1):
                held[index][part] += max(0, min(now + SECOND, half * (part + 1)) - max(now, half * part))
    return [tuple(client[part] / half for client in held) for part in (0, 1)]


def two(threads: tuple[int, int], calls: tuple[int, int], pause: tuple[int, int]) -> tuple[Client, Client]:
    one, other = (Client(*each) for each in zip(threads, calls, pause, strict=True))
    return one, other


ALMOST = SECOND - 1  # a pause that ends just before the next second
UNIFORM = two((8, 8), (20, 20), (ALMOST, ALMOST))
EQUAL = two((8, 7), (20, 30), (SECOND, SECOND // 2))
UNEQUAL = two((4, 2), (20, 20), (ALMOST, ALMOST))
WINDUP = (Client(2, 40, -1), Client(2, 40, -1, joins_at_half=True))
CROWD = (Client(6, 60, -1), Client(2, 60, -1, joins_at_half=True))
ELEPHANT = two((50, 1), (50, 500), (0, 0))
SCENARIOS = [
    # Both could use all four slots: 8 threads that are busy half of the time.
    Scenario("UniformFlows", 4, 50, UNIFORM, [(2, 2)], [(2, 2)], "1 %"),
    # 8 / 2 = 4 and 7 / 1.5 = 4.7: both want more than half.
    Scenario("DifferentFlowsExpectEqual", 4, 40, EQUAL, [(2, 2)], [(2, 2)], "1 %"),
    # 4 / 2 = 2 and 2 / 2 = 1: there is room for both.
    Scenario("DifferentFlowsExpectUnequal", 3, 20, UNEQUAL, [(2, 1)], [(2, 1)], "1 %"),
    # One thread can't use its half of three slots. When it has become two, it has saved nothing: a scheduler that
    # let it catch up would give it two slots, 1 : 2.
    Scenario("Windup", 3, 40, WINDUP, [(2, 1), (1.5, 1.5)], [(2, 1), (1.5, 1.5)], "1 %, 10..26 %"),
    # First come, first served does as well in all of theirs, as threads that wait for an answer hold themselves back.
    # Not so beside a crowd, in two of ours: it shares by threads, 3 slots by 6 : 1 and 6 : 2,
    Scenario("Windup in a crowd", 3, 56, CROWD, [(2, 1), (1.5, 1.5)], [(18 / 7, 3 / 7), (2.25, 0.75)], "-"),
    # and 4 slots by 50 : 1. The mouse asks again just after its slot was given away and takes the next that is free.
    # The four become free within a microsecond, one after the other, and the next round is a second later: so it has
    # 4 turns in 5 s.
    Scenario("Elephant and mouse", 4, 510, ELEPHANT, [(3.2, 0.8)], [(200 / 51, 4 / 51)], "-"),
]


def told(halves: list[tuple[float, ...]]) -> str:
    return ", then ".join(" : ".join(f"{slots:.3g}" for slots in half) for half in halves)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_clients_hold_the_slots_that_are_fair(scenario: Scenario) -> None:
    halves = {order: slots_held(scenario, order) for order in (core.FAIR, core.FIFO)}
    if scenario is SCENARIOS[0]:
        print(f"\n{'scenario':29}{'expected':22}{'their margin':15}{'ours':28}fifo")
    columns = f"{told(scenario.fair):22}{scenario.margin:15}{told(halves[core.FAIR]):28}"
    print(f"{scenario.name:29}{columns}{told(halves[core.FIFO])}")
    for order, expected in ((core.FAIR, scenario.fair), (core.FIFO, scenario.fifo)):
        for half in (0, 1):
            assert halves[order][half] == pytest.approx(expected[half % len(expected)], rel=0.01)
