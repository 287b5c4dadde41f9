"""Durations, counted in buckets less than 1 % wide."""

def counted(values_ns: list[int]) -> list[tuple[int, int]]:
    """[(largest value of a bucket in ns, how many of the values fell into it)], smallest first, for tests."""
