"""Micro-benchmarks of the core for reading, not for gates: python -m pytest benches --benchmark-only

Three sizes, so that the slope shows. Gates are in instructions.py and against_first_design.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.core import scheduler as core
from fairlead.core.heap import IndexedHeap

SIZES = [(10, 100), (1_000, 10_000), (10_000, 100_000)]


def filled(users: int, waiting: int) -> tuple[core.Scheduler, int, list[int]]:
    scheduler = core.Scheduler(waiting_max=waiting + 1, running_max=32)
    pool = scheduler.add_pool(0)
    for _ in range(8):
        node = scheduler.add_node(0, 4)
        scheduler.set_node_pools(0, node, [pool])
        scheduler.set_node_state(0, node, core.UP)
    running: list[int] = []
    for i in range(waiting + 32):
        scheduler.submit(0, pool, i * 7919 % users, 1, 1, 1, 0, (i * 104729) % (1 << 40) + 1, 0, 0)
        running += [handle for _, handle, _ in scheduler.drain(0)]
    return scheduler, pool, running


@pytest.mark.parametrize(("users", "waiting"), SIZES)
def test_submit_drain_finish(benchmark: Any, users: int, waiting: int) -> None:
    scheduler, pool, running = filled(users, waiting)
    state = {"i": 0}

    def one() -> None:
        i = state["i"] = state["i"] + 1
        scheduler.submit(0, pool, i * 7919 % users, 1, 1, 1, 0, 1 << 50, 0, 0)
        scheduler.finish(0, running[i % 32], core.COMPLETED, 1)
        running[i % 32] = scheduler.drain(0)[0][1]

    benchmark(one)


@pytest.mark.parametrize(("users", "waiting"), SIZES)
def test_submit_cancel(benchmark: Any, users: int, waiting: int) -> None:
    scheduler, pool, _ = filled(users, waiting)

    def one() -> None:
        assert scheduler.cancel(0, scheduler.submit(0, pool, 3, 1, 1, 1, 0, 1 << 30, 0, 0))

    benchmark(one)


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
def test_heap_update(benchmark: Any, size: int) -> None:
    heap = IndexedHeap(size)
    for item in range(size):
        heap.push(item * 104729 % size, item)
    state = {"i": 0}

    def one() -> None:
        i = state["i"] = (state["i"] + 7919) % size
        heap.update(i * 31 % size, i)

    benchmark(one)
