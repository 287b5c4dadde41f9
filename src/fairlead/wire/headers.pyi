"""Header lines, in both directions: kept as bytes, and read only when somebody asks."""

from collections.abc import Iterator, Mapping
from typing import final

class Refused(Exception):
    """A request that goes no further. code: one of the router's error codes; the connection is closed after it."""

    code: str
    message: str
    def __init__(self, code: str, message: str) -> None: ...

@final
class Headers(Mapping[str, str]):
    """A request's headers, read-only and case-insensitive. get and [] give the first of a name, pairs all of them as
    they were sent, in order."""

    @property
    def pairs(self) -> list[tuple[str, str]]: ...
    def lines(self, passed: frozenset[str], prefix: str) -> bytes:
        """Those whose names (in lower case) are passed on, or begin with the prefix, as lines of a head."""

    def is_repeated(self, name: str) -> bool:
        """Whether there is more than one of that name."""

    def getall(self, name: str) -> list[str]: ...
    def __getitem__(self, name: str) -> str: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...

def whole_lines(text: bytes) -> bool:
    """Whether it is header lines of one head, each whole, or nothing; what a line says is not looked at."""
