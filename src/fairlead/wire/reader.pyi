"""One client's requests as llhttp reads them, and what llhttp lets through and a router must not."""

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
    def getall(self, name: str) -> list[str]: ...
    def __getitem__(self, name: str) -> str: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
