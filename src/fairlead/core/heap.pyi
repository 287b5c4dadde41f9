"""An indexed min-heap: O(log n) push, removal of any item and change of any key."""

from typing import Self, final

@final
class IndexedHeap:
    """Items are integers 0..capacity-1, each at most once; keys are 64-bit integers.

    Equal keys leave in the order in which they were pushed or last updated. All memory is allocated here.
    Raises ValueError (capacity out of range), MemoryError.
    """

    def __new__(cls, capacity: int) -> Self: ...
    def push(self, key: int, item: int, /) -> None:
        """ValueError if the item is in the heap, IndexError if it is out of range."""

    def update(self, key: int, item: int, /) -> None:
        """Give an item another key. ValueError if it is not in the heap."""

    def remove(self, item: int, /) -> bool:
        """False: it was not in the heap."""

    def top(self) -> tuple[int, int] | None:
        """(key, item) of the smallest entry; it stays."""

    def pop_due(self, key: int, /) -> list[int]:
        """Take out every item whose key is <= key, smallest first."""

    def __contains__(self, item: int, /) -> bool: ...
    def __len__(self) -> int: ...
    def check(self) -> None:
        """Raise AssertionError if the heap is broken. O(n)."""
