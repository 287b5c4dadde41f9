"""Header lines, in both directions: kept as bytes, and read only when somebody asks."""

from collections.abc import Iterable
from typing import final

class Refused(Exception):
    """A request that goes no further. code: one of the router's error codes; the connection is closed after it."""

    code: str
    message: str
    def __init__(self, code: str, message: str) -> None: ...

def key_of(name: str) -> str:
    """The name as value, has and is_repeated want it: two spellings of a name have one key, the same object."""

@final
class Headers:
    """A request's headers. pairs: all of them as they were sent, in order."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None: ...
    @property
    def pairs(self) -> list[tuple[str, str]]: ...
    def value(self, key: str) -> str | None:
        """The first value of that name."""

    def has(self, key: str) -> bool: ...
    def is_repeated(self, key: str) -> bool:
        """Whether there is more than one of that name."""

    def lines(self, passed: frozenset[str], prefix: str, ours: str) -> bytes:
        """Those whose names (in lower case) are passed on, or begin with the prefix, as lines of a head; ours is behind
        them. Raises Refused: a value is not one line."""

def whole_lines(text: bytes) -> bool:
    """Whether it is header lines of one head, each whole, or nothing; what a line says is not looked at."""
