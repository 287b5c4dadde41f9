"""What the simulator replays, wherever it comes from: requests in order of arrival.

A ``Trace`` has one entry per request in each of its columns, sorted by arrival: times in nanoseconds from the first
arrival, lengths in tokens, users and models as indices into their names. Whatever had to be made up is said in
``notes``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Final

from fairlead.errors import ConfigError

REQUESTS_MAX: Final = 5_000_000  # about 2 GB
TOKENS_MAX: Final = 2**28 - 1  # at the highest prices the cost of input and output is still one that the core takes
NAME_MAX: Final = 256  # characters: a model's may have so many
SECONDS_MAX: Final = 4e9  # 2**62 ns is about 4.6e9 s


class TraceError(ConfigError):
    """A workload that can't be used; the message has file, line, column, value and what is allowed."""


@dataclass(slots=True)
class Trace:
    """Requests in order of arrival. ``max_tokens`` is 0 where the client named no limit."""

    source: str
    reader: str
    users: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    arrival_ns: array[int] = field(default_factory=lambda: array("q"))
    user: array[int] = field(default_factory=lambda: array("q"))
    model: array[int] = field(default_factory=lambda: array("q"))
    input_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    max_tokens: array[int] = field(default_factory=lambda: array("q"))
    notes: list[str] = field(default_factory=list)
    times_drawn: bool = False  # from a seed
    users_drawn: bool = False

    def __len__(self) -> int:
        return len(self.arrival_ns)


def tokens(value: Any) -> int:
    """A number of them from a file or an option. Raises ValueError."""
    number = int(value)
    if not 0 <= number <= TOKENS_MAX or isinstance(value, bool | float):
        raise ValueError
    return number


def name(value: Any) -> str:
    """A user's or a model's. Raises ValueError."""
    text = str(value)
    if value is None or not text or len(text) > NAME_MAX:
        raise ValueError
    return text


def in_order(trace: Trace, scale: float) -> Trace:
    """Sorted by arrival (ties stay in the file's order), the first at 0, the rate multiplied by ``scale``."""
    arrival = trace.arrival_ns
    order = sorted(range(len(arrival)), key=arrival.__getitem__)
    start = arrival[order[0]]
    if (arrival[order[-1]] - start) / 1e9 > SECONDS_MAX * scale:
        raise TraceError(f"--scale: {scale:g} makes the trace longer than {SECONDS_MAX:g} s: choose a larger one")
    trace.arrival_ns = array(
        "q", (int((arrival[i] - start) / scale) if scale != 1 else arrival[i] - start for i in order)
    )
    for each in ("user", "model", "input_tokens", "output_tokens", "max_tokens"):
        column = getattr(trace, each)
        setattr(trace, each, array("q", (column[i] for i in order)))
    return trace


def too_many(source: str, what: str) -> TraceError:
    """There are more requests than can be simulated; what: to change."""
    return TraceError(f"{source}: more than {REQUESTS_MAX} requests: {what}")
