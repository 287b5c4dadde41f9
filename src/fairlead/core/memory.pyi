"""The core's allocator, as far as tests look at it."""

def blocks_in_use() -> int:
    """Arrays that are allocated and not yet freed, in the whole process."""

def fail_allocation_after(count: int) -> None:
    """Let count more allocations succeed and every later one fail; -1 turns this off."""

def checks_are_on() -> bool:
    """Whether this is a build whose CHECKs abort (FAIRLEAD_BUILD=checked or asan)."""
