"""Work in pieces: the same comes out as in one, and no turn of the loop looks at many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.pieces import PIECE, ascending, pieces, smallest
from pure.users_world import drive


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 7))
def test_every_item_comes_once_and_in_its_order(items: list[int], size: int) -> None:
    async def all_of_them() -> list[int]:
        return [item async for some in pieces(items, size) for item in some]

    assert drive(all_of_them()) == items


@pytest.mark.parametrize("of", [lambda number: number, lambda number: -number, lambda number: number * 7919 % 10007])
@pytest.mark.parametrize("count", [0, 1, PIECE, 10 * PIECE + 1])
def test_sorted_in_pieces_is_sorted(of: Callable[[int], int], count: int) -> None:
    keys = [float(of(number)) for number in range(count)]
    assert drive(ascending(keys)) == sorted(range(count), key=keys.__getitem__)
    for limit in (1, 20, 10 * PIECE + 2):
        found = drive(smallest(limit, range(count), lambda number: (keys[number],)))
        assert found == sorted(range(count), key=keys.__getitem__)[:limit]


def test_no_turn_ranks_more_than_a_piece() -> None:
    looked, longest = 0, 0

    def rank(number: int) -> tuple[int]:
        nonlocal looked
        looked += 1
        return (number % 100,)

    def meanwhile() -> None:
        nonlocal looked, longest
        looked, longest = 0, max(looked, longest)

    first = drive(smallest(3, range(10_000), rank), meanwhile)
    assert first == [0, 100, 200]
    assert 0 < longest <= PIECE and looked == 0
