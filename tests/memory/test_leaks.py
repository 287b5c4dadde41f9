"""What is made is freed: objects, and what calls leave behind."""

from __future__ import annotations

import gc
import sys
import tracemalloc

from fairlead.core import memory
from fairlead.core import scheduler as core
from fairlead.core.heap import IndexedHeap
from fairlead.wire.jsonscan import top_level_keys


def world(**limits: int) -> tuple[core.Scheduler, int]:
    scheduler = core.Scheduler(**{"waiting_max": 100, "running_max": 100} | limits)
    pool = scheduler.add_pool(0)
    node = scheduler.add_node(0, 4)
    scheduler.set_node_pools(0, node, [pool])
    scheduler.set_node_state(0, node, core.UP)
    return scheduler, pool


def work(scheduler: core.Scheduler, pool: int, count: int) -> None:
    running: list[int] = []
    for i in range(count):
        scheduler.submit(0, pool, i, 1, 1, 1, 10, core.NEVER, 0, 0)
        running += [handle for _, handle, _ in scheduler.drain(0)]
        if len(running) >= 3:
            scheduler.finish(0, running.pop(0), core.COMPLETED, 2)
    for handle in running:
        scheduler.finish(0, handle, core.COMPLETED, 1)


def test_objects_give_all_their_arrays_back() -> None:
    gc.collect()  # what other tests left behind
    before = memory.blocks_in_use()
    for _ in range(200):
        work(*world(), count=5)
        IndexedHeap(100).push(1, 1)
    gc.collect()
    assert memory.blocks_in_use() == before


def test_calls_keep_no_python_object() -> None:
    scheduler, pool = world()
    work(scheduler, pool, 100)
    scheduler.counters(), scheduler.pool(pool)
    gc.collect()
    tracemalloc.start()
    try:
        work(scheduler, pool, 2_000)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            work(scheduler, pool, 2_000)
            scheduler.counters(), scheduler.pool(pool), scheduler.user(pool, 1), scheduler.position(5)
            top_level_keys(b'{"a": 1, "b": [2, {"c": 3}]}')
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 2_000
    finally:
        tracemalloc.stop()


def test_refused_arguments_keep_no_reference() -> None:
    scheduler, pool = world()
    value = 1 << 70
    before = sys.getrefcount(value)
    for _ in range(100):
        for arguments in ((0, pool, value, 1, 1, 1, 0, 9, 0, 0), (0, pool, 1, value, 1, 1, 0, 9, 0, 0)):
            try:
                scheduler.submit(*arguments)
            except (ValueError, OverflowError):
                continue
            raise AssertionError("it was taken")
    del arguments
    assert sys.getrefcount(value) == before
