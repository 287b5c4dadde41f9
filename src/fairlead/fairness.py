"""What a fair division would have been, and how far a division is from it.

Pure arithmetic, shared by the live figures and by the simulator, so that both mean the same by the same word.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf


def fair_level(total: float, demand: Sequence[float], weight: Sequence[float], order: Sequence[int]) -> float:
    """What each has of ``fair_shares`` per unit of weight, unless that is more than it wants; inf: nobody wants more.

    order: of all, by demand / weight.
    """
    # Sums from the end, not what is left after subtracting: that could come to 0 before the last one has its part.
    weights = list(accumulate(map(weight.__getitem__, reversed(order))))
    demands = list(accumulate(map(demand.__getitem__, order), initial=0.0))

    def level(at: int) -> float:
        """If those before it have what they want."""
        return max(total - demands[at], 0.0) / weights[-1 - at]

    def wants_more(at: int) -> bool:
        return demand[order[at]] > level(at) * weight[order[at]]

    first = bisect_left(range(len(order)), True, key=wants_more)  # if one wants more, so do all behind it
    return level(first) if first < len(order) else inf


def fair_shares(total: float, demand: Sequence[float], weight: Sequence[float]) -> list[float]:
    """Deal ``total`` out by weight (> 0), nobody more than its demand: the max-min fair division."""
    order = sorted(range(len(demand)), key=lambda user: demand[user] / weight[user])
    level = fair_level(total, demand, weight, order)
    return [min(want, level * each) for want, each in zip(demand, weight, strict=True)]


def jain_index(parts: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all are equal (or nobody is there, or all have nothing), 1/n if one has it all."""
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 1.0
