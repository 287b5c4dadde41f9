"""The timers of node and generator, against a dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.load.timers import replayed

CAPACITY = 20
items, times = st.integers(0, CAPACITY - 1), st.integers(0, 100)
operations = st.lists(
    st.tuples(items, times) | st.tuples(items, times) | st.tuples(items, st.none()) | st.tuples(st.none(), times),
    max_size=200,
)


@given(operations)
def test_what_is_due_first_comes_first(steps: list[tuple[int | None, int | None]]) -> None:
    due: dict[int, int] = {}
    popped = iter(replayed(CAPACITY, steps))
    for item, time in steps:
        if item is None:
            got, first = next(popped), min(due.values(), default=101)
            assert got == -1 if first > time else due.pop(got) == first
        elif time is None:
            due.pop(item, None)
        else:
            due[item] = time


def test_items_have_a_range() -> None:
    with pytest.raises(IndexError, match="item is 3"):
        replayed(3, [(3, 0)])
