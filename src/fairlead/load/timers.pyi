"""One due time per item, and which is next."""

def replayed(capacity: int, operations: list[tuple[int | None, int | None]]) -> list[int]:
    """For tests: (item, due) sets a time, (item, None) clears it, (None, now) pops; gives what was popped, -1: nothing.

    IndexError: an item is not in 0..capacity - 1. MemoryError.
    """
