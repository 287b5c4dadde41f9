"""Work that is longer than a request should wait for, in pieces: between two of them the loop does what else is due.

Promise: a piece looks at PIECE items, unless it is told another size. What it works on may have changed when the next
one starts. Only the sums and merges of plain numbers are made at once: 10,000 take less than 2 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeVar

PIECE: Final = 250
Item = TypeVar("Item")


async def pieces(items: Sequence[Item], size: int = PIECE) -> AsyncIterator[Sequence[Item]]:
    """The items in slices, with a turn of the loop before each."""
    for start in range(0, len(items), size):
        await asyncio.sleep(0)
        yield items[start : start + size]


async def smallest(limit: int, items: Sequence[Item], rank: Callable[[Item], tuple[Any, ...]]) -> list[Item]:
    """By rank, which is taken once of each; by themselves where that is equal."""
    ranked = [sorted((rank(item), item) for item in some)[:limit] async for some in pieces(items)]
    merged = merge(*ranked)
    return [item async for some in pieces(range(min(limit, len(items)))) for _, item in islice(merged, len(some))]


async def ascending(keys: Sequence[float]) -> list[int]:
    """The indices by their keys. To sort what consists of few ascending runs is little more than to merge them."""
    order: list[int] = []
    async for some in pieces(range(len(keys)), 4 * PIECE):
        order += sorted(some, key=keys.__getitem__)
    order.sort(key=keys.__getitem__)
    await asyncio.sleep(0)
    return order
