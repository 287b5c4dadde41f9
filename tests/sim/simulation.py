"""One seed's simulation from beginning to end, and what there is to say about it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fairlead.driver import Driver
from sim.plan import Plan
from sim.watch import Watch
from sim.world import World


class Fault(AssertionError):
    """The first broken invariant of a seed, with the events before it and how to run that seed again."""


@dataclass(frozen=True)
class Simulation:
    plan: Plan
    watch: Watch
    cpu_s: float


def simulate(seed: int, base: type[Driver] = Driver) -> Simulation:
    """base: the driver, or one with a planted fault. Raises Fault."""
    began_s = time.process_time()
    world: World | None = None
    try:
        world = World(seed, base)
        world.run()
    except Exception as error:
        history = "" if world is None else f"{world.plan}\n{world.watch.report()}\n"
        again = f"FAIRLEAD_SEEDS={seed}:{seed + 1} python -m pytest tests/sim/test_driver_simulation.py"
        raise Fault(f"seed {seed}: {type(error).__name__}: {error}\n{history}again: {again}") from error
    return Simulation(world.plan, world.watch, time.process_time() - began_s)
