"""The k-th allocation fails, for every k: a MemoryError each time, nothing left behind, and the next one works."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from fairlead.core import memory
from fairlead.core.heap import IndexedHeap
from fairlead.core.scheduler import PUSH_OUT, Scheduler

MAKERS = {
    "Scheduler": lambda: Scheduler(waiting_max=10, running_max=10),
    "Scheduler that pushes out": lambda: Scheduler(waiting_max=10, running_max=10, overflow=PUSH_OUT),
    "IndexedHeap": lambda: IndexedHeap(1000),
}


@pytest.fixture(autouse=True)
def _no_failure_is_left_planted() -> Iterator[None]:
    yield
    memory.fail_allocation_after(-1)


@pytest.mark.parametrize("name", MAKERS)
def test_every_allocation_may_fail(name: str) -> None:
    make: Callable[[], object] = MAKERS[name]
    gc.collect()  # what other tests left behind
    before = memory.blocks_in_use()
    made = make()
    count = memory.blocks_in_use() - before
    assert count > 3
    del made
    assert memory.blocks_in_use() == before
    for k in range(count):
        memory.fail_allocation_after(k)
        with pytest.raises(MemoryError, match="no memory for"):
            make()
        assert memory.blocks_in_use() == before, f"allocation {k} of {count} failed, and something was kept"
        memory.fail_allocation_after(-1)
        make()  # the next one works
    memory.fail_allocation_after(count)
    made = make()  # that many are enough
    memory.fail_allocation_after(-1)
    del made
    assert memory.blocks_in_use() == before


def test_a_size_that_can_not_be_had_is_a_memory_error_or_a_clear_refusal() -> None:
    before = memory.blocks_in_use()
    with pytest.raises((MemoryError, ValueError)):
        Scheduler(waiting_max=1 << 24, running_max=1 << 24, nodes_max=1 << 14, pools_max=1 << 14)
    assert memory.blocks_in_use() == before
