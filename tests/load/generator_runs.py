"""A generator and its run, for its tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fairlead.load.generator import Generator

REQUEST = b"POST / HTTP/1.1\r\nX: u0000000\r\nContent-Length: 23\r\n\r\nbench:0000000000000000:"
NONCE_AT = REQUEST.index(b"bench:") + 6
USER_AT = REQUEST.index(b"u0000000") + 1
WAIT_S = 10.0


def make(port: int, address: str = "127.0.0.1", **options: Any) -> Generator:
    return Generator(address, port, REQUEST, **({"nonce_at": NONCE_AT, "user_at": USER_AT, "echo": True} | options))


def run_until(generator: Generator, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Its counts, when they are like that."""
    end = time.monotonic() + WAIT_S
    while not condition(counts := generator.counts()):
        assert time.monotonic() < end, counts
        generator.run(0.01)
    return counts


def ended(counts: dict[str, Any]) -> int:
    return int(counts["good"] + sum(counts["faults"].values()))
