"""IndexedHeap against a dictionary that is searched: random operations, and what a caller may do wrong."""

from __future__ import annotations

import random

import pytest

from fairlead.core.heap import IndexedHeap


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("capacity", [1, 5, 70, 300])  # less than a page, more than one, several
def test_random_operations_leave_the_smallest_on_top(capacity: int, seed: int) -> None:
    rng = random.Random(seed)
    heap = IndexedHeap(capacity)
    model: dict[int, tuple[int, int]] = {}  # item -> (key, when it was given)
    for moment in range(600):
        item, key = rng.randrange(capacity), rng.choice([rng.randrange(5), rng.randrange(-(1 << 63), 1 << 63)])
        action = rng.choice(["push", "push", "update", "remove", "pop_due"])
        if action == "push" and item not in model:
            heap.push(key, item)
            model[item] = key, moment
        elif action == "update" and item in model:
            heap.update(key, item)
            model[item] = key, moment
        elif action == "remove":
            assert heap.remove(item) == (model.pop(item, None) is not None)
        elif action == "pop_due" and rng.random() < 0.1:
            due = sorted((item for item, (at, _) in model.items() if at <= key), key=lambda item: model[item])
            assert heap.pop_due(key) == due
            for each in due:
                del model[each]
        heap.check()
        assert len(heap) == len(model)
        assert (item in heap) == (item in model)
        smallest = min(model, key=lambda item: model[item], default=None)
        assert heap.top() == (None if smallest is None else (model[smallest][0], smallest))


def test_equal_keys_leave_in_the_order_of_their_last_change() -> None:
    heap = IndexedHeap(10)
    for item in (4, 2, 9, 7):
        heap.push(5, item)
    heap.update(5, 2)
    assert heap.pop_due(4) == []
    assert heap.pop_due(5) == [4, 9, 7, 2]


def test_a_caller_s_mistake_is_named_and_changes_nothing() -> None:
    heap = IndexedHeap(3)
    heap.push(1, 2)
    with pytest.raises(ValueError, match="item 2 is in the heap already"):
        heap.push(0, 2)
    with pytest.raises(ValueError, match="item 0 is not in the heap"):
        heap.update(0, 0)
    for item in (-1, 3):
        with pytest.raises(IndexError, match=f"item is {item}: this heap holds 0..2"):
            heap.push(0, item)
        with pytest.raises(IndexError, match=f"item is {item}"):
            heap.remove(item)
        assert item not in heap
    for capacity in (0, -1, (1 << 30) + 1):
        with pytest.raises(ValueError, match=f"capacity is {capacity}: choose 1..1073741824"):
            IndexedHeap(capacity)
    assert (heap.top(), len(heap)) == ((1, 2), 1)
