"""What a fair division would have been, and how far a division is from it.

Pure arithmetic, shared by the live figures and by the simulator, so that both mean the same by the same word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def fair_shares(total: float, demand: Sequence[float], weight: Sequence[float]) -> list[float]:
    """Deal ``total`` out by weight (> 0), nobody more than its demand: the max-min fair division."""
    share = [0.0] * len(demand)
    order = sorted(range(len(demand)), key=lambda user: demand[user] / weight[user])
    # Sums from the end, not what is left after subtracting: that could come to 0 before the last one has its part.
    weights = list(accumulate(weight[user] for user in reversed(order)))
    left = total
    for user in order:
        share[user] = min(demand[user], left * weight[user] / weights.pop())
        left -= share[user]
    return share


def jain_index(parts: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all are equal (or nobody is there, or all have nothing), 1/n if one has it all."""
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 1.0
