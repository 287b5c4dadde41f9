"""The far end of a benchmark: an inference server that costs next to nothing. How it is asked is in farm.pyx."""

from collections.abc import Iterable
from typing import final

OWNER: str
PLAIN_BYTES: int

@final
class Node:
    """Listens on these ports of 127.0.0.1 (0: any); all of them are one server, with one set of slots.

    model: what /v1/models lists; any model is served. slots: requests at once, 0 for any number; more wait in order.
    service_ns: time a plain answer takes. connections_max: further ones are closed at once.
    Raises ValueError (out of range), OSError (port taken, no descriptors), MemoryError.
    """

    def __new__(
        cls,
        ports: Iterable[int],
        *,
        model: str = "bench",
        slots: int = 0,
        service_ns: int = 0,
        connections_max: int = 1024,
    ) -> Node: ...
    @property
    def ports(self) -> tuple[int, ...]:
        """Where it listens."""

    def run(self, seconds: float = 1_000_000_000) -> None:
        """Serve for so long, or until stop. ValueError (out of range, or after close); KeyboardInterrupt as ever."""

    def stop(self) -> None:
        """From any thread: let run return within 50 ms."""

    def counts(self) -> dict[str, int]:
        """``plain`` answers begun, ``streams`` ended, ``chunks``, ``other`` requests, ``aborted`` (the client left
        early), ``bad`` (not understood), ``full`` (no place for the connection); now: ``running``, ``waiting``."""

    def close(self) -> None:
        """Close everything. It can't be used again."""
