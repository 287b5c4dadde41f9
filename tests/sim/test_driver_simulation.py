"""The driver over the scheduler and the pools, in virtual time: a million random events, every invariant after each.

A seed is a history: its plan (plan.py) says how large the world is and which faults it has, the world (world.py) plays
it, the watch (watch.py says what an event is and what holds after it) compares with a ledger of its own (ledger.py).
The seed is the test's name and is printed with what went wrong and the events before it. Seeds beyond the usual ones:
FAIRLEAD_SEEDS=1000:2000.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from sim.plan import EVENTS, FAULTS, LARGE_EVERY
from sim.simulation import Simulation, simulate

SEEDS = {"dev": 18, "ci": 180}  # about 105,000 and 1,050,000 events
KINDS = (
    *("submitted", "refused -1", "refused -2", "refused -3", "dispatched", "finished", "requeued", "cancelled"),
    *("moved", "expired", "no_node", "pushed_out", "broken", "timer set", "timed", "timer fired"),
    *("pool added", "pool removed", "group added", "group removed", "strict", "limits"),
    *("node added", "node removed", "node pools", "node state", "node slots", "node load"),
)


def seeds(config: pytest.Config) -> range:
    wanted = os.environ.get("FAIRLEAD_SEEDS")
    if wanted is None:
        return range(SEEDS[config.getoption("profile")])
    first, end = wanted.split(":")
    return range(int(first), int(end))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", seeds(metafunc.config))


def test_every_invariant_holds_after_every_event(seed: int, simulations: list[Simulation]) -> None:
    simulations.append(simulate(seed))


def test_the_simulations_tried_everything(pytestconfig: pytest.Config, simulations: list[Simulation]) -> None:
    """A million events of one kind would prove little."""
    if [each.plan.seed for each in simulations] != list(range(SEEDS[pytestconfig.getoption("profile")])):
        pytest.skip("only for all the usual seeds, if none of them failed")
    large = [each for each in simulations if each.plan.large]
    assert len(large) * 10 >= len(simulations)
    assert sum(each.watch.events for each in simulations) >= EVENTS * len(simulations)
    for each in large:
        assert each.watch.crowded >= 1_000, f"seed {each.plan.seed}: at most {each.watch.waiting_most} waited"
    assert sum(each.watch.crowded for each in large) > sum(each.watch.events for each in large) // 2
    seen: Counter[str] = sum((each.watch.seen for each in simulations), Counter())
    least = 20 if pytestconfig.getoption("profile") == "ci" else 2
    assert not [kind for kind in KINDS if seen[kind] < least], f"too little of something: {seen}"
    assert not set(seen) - set(KINDS), "a kind of event that is not in the list"
    for fault in FAULTS:
        having = sum(fault in each.plan.faults for each in simulations)
        assert len(simulations) // 4 <= having <= len(simulations) * 3 // 4, f"{fault}: {having} seeds"


@pytest.mark.parametrize("number", [1, 2, LARGE_EVERY])
def test_a_seed_is_one_history(number: int) -> None:
    one, other = simulate(number), simulate(number)
    assert one.watch.report() == other.watch.report()
    assert (one.watch.seen, one.watch.events) == (other.watch.seen, other.watch.events)
