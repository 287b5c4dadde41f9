"""Fair division and its index, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.fairness import fair_shares, jain_index


@pytest.mark.parametrize(
    ("total", "demand", "weight", "shares"),
    [
        (12, [20, 20, 20], [1, 1, 1], [4, 4, 4]),
        (12, [20, 20], [3, 1], [9, 3]),
        (12, [2, 20, 20], [1, 1, 1], [2, 5, 5]),  # what one does not want is dealt out to the others
        (12, [2, 4, 20], [1, 1, 1], [2, 4, 6]),
        (12, [20, 1, 20], [1, 1, 2], [11 / 3, 1, 22 / 3]),
        (6, [1, 2, 3], [5, 1, 1], [1, 2, 3]),  # all get what they want
        (0, [1, 2], [1, 1], [0, 0]),
        (0, [], [], []),
    ],
)
def test_shares(total: float, demand: list[float], weight: list[float], shares: list[float]) -> None:
    assert fair_shares(total, demand, weight) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("parts", "index"),
    [([1, 1, 1], 1), ([3, 1], 16 / 20), ([1, 0], 1 / 2), ([0, 0, 5], 1 / 3), ([7], 1), ([], 1), ([0, 0], 1)],
)
def test_index(parts: list[float], index: float) -> None:
    assert jain_index(parts) == pytest.approx(index)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(1e-2, 1e4)), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_nobody_has_more_than_it_wants_and_nobody_who_wants_more_has_less_per_weight(
    users: list[tuple[int, float]], part: float
) -> None:
    demand, weight = [float(want) for want, _ in users], [weight for _, weight in users]
    total = part * sum(demand)
    shares = fair_shares(total, demand, weight)
    assert math.fsum(shares) == pytest.approx(total)
    assert all(0 <= share <= want for share, want in zip(shares, demand, strict=True))
    level = max(share / each for share, each in zip(shares, weight, strict=True))
    for share, want, each in zip(shares, demand, weight, strict=True):
        assert share == pytest.approx(want) or share / each == pytest.approx(level, rel=1e-5)
