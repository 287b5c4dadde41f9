"""The request log: one JSON line for every inference request that ended, however it ended.

Promise: nothing on the way of a request waits for it (see lines). A line has the names, times and numbers below, never
a prompt, an answer, a query string, a header or a key; control characters are escaped. All lines have the same
members, null where there is nothing to say, and ``fairlead simulate --trace`` reads them.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson

from fairlead.clock import MILLISECOND_NS, SECOND_NS
from fairlead.config_schema import TIERS
from fairlead.errors import ApiError
from fairlead.lines import Lines, open_target

NONE: Final = "none"
CLIENT_CLOSED: Final = (499, "client_closed")
# Of every line, in this order.
MEMBERS: Final = (
    "time",
    "arrival",
    "request_id",
    "user",
    "weight",
    "tier",
    "team",
    "model",
    "pool",
    "path",
    "stream",
    "node",
    "outcome",
    "status",
    "error",
    "queue_ms",
    "connect_ms",
    "first_byte_ms",
    "total_ms",
    "width",
    "max_tokens",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "tokens_by",
    "cost",
    "requeues",
    "position",
)


class LogError(Exception):
    """The log can't be written where it is to be; the message is the one line that the operator reads."""


class Billed(Protocol):
    """What was read of the request and its answer; None: not known. by is empty until the answer was counted."""

    max_tokens: int | None
    input: int | None
    cached: int | None
    output: int | None
    by: str


class Sent(Protocol):
    """The request as its node got it."""

    request_id: str
    path: str
    model: str
    stream: bool


class Named(Protocol):
    @property
    def name(self) -> str: ...


class Recorded(Protocol):
    """What is read of a call when it has ended. Times are the driver's; 0: it did not come to that."""

    user_name: str
    tier: int
    team: str | None
    pool: int
    weight: int
    width: int
    position: int  # at entry; 0: it never had to wait
    requeues: int
    waited_ns: int  # up to the last dispatch
    entered_ns: int
    queued_ns: int  # when it last began to wait
    dispatched_ns: int
    connected_ns: int
    first_byte_ns: int  # when the client was told the head
    status: int  # of the node's answer
    error: ApiError | None  # what ended it, if the router did
    tally: Any  # None: it ended in the queue

    @property
    def outgoing(self) -> Sent: ...
    @property
    def node(self) -> Named | None: ...
    @property
    def bill(self) -> Billed | None: ...


class RequestLog:
    """target: "stdout", "stderr" or a path. unit: the core's cost of what a person counts as one."""

    def __init__(self, target: str, unit: int) -> None:
        self._target = target
        self._unit = unit
        self._lines: Lines | None = None
        self._second = 0
        self._second_text = ""

    def open(self) -> None:
        """Raises LogError."""
        try:
            fd = open_target(self._target)
        except OSError as error:
            advice = "name a file that can be written, stdout, stderr or none"
            raise LogError(f"log.requests: {self._target}: {error.strerror}: {advice}") from None
        self._lines = Lines("the request log", fd)

    async def close(self) -> None:
        if self._lines is not None:
            await self._lines.close()

    @property
    def lost(self) -> int:
        """Lines that were not written."""
        return 0 if self._lines is None else self._lines.lost

    def ended(self, call: Recorded, outcome: str, cost: int, now_ns: int) -> None:
        """Before anything of the call is let go."""
        outgoing, node, bill, error = call.outgoing, call.node, call.bill, call.error
        entered_ns, dispatched_ns, first_byte_ns = call.entered_ns, call.dispatched_ns, call.first_byte_ns
        if outcome == "cancelled":
            status, code = CLIENT_CLOSED
        elif error is None:
            status, code = call.status, None
        else:
            status, code = call.status if first_byte_ns else error.status, error.code
        waits = call.tally is None
        queue_ns = call.waited_ns + (now_ns - call.queued_ns if waits else 0)
        connected = not waits and call.connected_ns >= dispatched_ns
        wall_ns = time.time_ns()
        self._write(
            {
                "time": self._clock(wall_ns),
                "arrival": (wall_ns - now_ns + entered_ns) / 1e9,
                "request_id": outgoing.request_id,
                "user": call.user_name,
                "weight": call.weight,
                "tier": TIERS[call.tier],
                "team": call.team,
                "model": outgoing.model,
                "pool": call.pool,
                "path": outgoing.path,
                "stream": outgoing.stream,
                "node": None if node is None else node.name,
                "outcome": outcome,
                "status": status,
                "error": code,
                "queue_ms": queue_ns / 1e6,
                "connect_ms": (call.connected_ns - dispatched_ns) / 1e6 if connected else None,
                "first_byte_ms": (first_byte_ns - entered_ns) / 1e6 if first_byte_ns else None,
                "total_ms": (now_ns - entered_ns) / 1e6,
                "width": call.width,
                "max_tokens": None if bill is None else bill.max_tokens,
                "input_tokens": None if bill is None else bill.input,
                "cached_tokens": None if bill is None else bill.cached,
                "output_tokens": None if bill is None else bill.output,
                "tokens_by": None if bill is None else bill.by or None,
                "cost": cost / self._unit,
                "requeues": call.requeues,
                "position": call.position or None,
            }
        )

    def rejected(self, request_id: str, path: str, error: ApiError) -> None:
        """It was answered before anybody knew whose it is, or what it is. path: empty where that could not be read."""
        wall_ns = time.time_ns()
        self._write(
            dict.fromkeys(MEMBERS)
            | {
                "time": self._clock(wall_ns),
                "arrival": wall_ns / 1e9,
                "request_id": request_id,
                "path": path or None,
                "outcome": "rejected",
                "status": error.status,
                "error": error.code,
            }
        )

    def _clock(self, wall_ns: int) -> str:
        """RFC 3339 with milliseconds."""
        second, rest_ns = divmod(wall_ns, SECOND_NS)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._second_text}{rest_ns // MILLISECOND_NS:03d}Z"

    def _write(self, record: dict[str, Any]) -> None:
        if self._lines is not None:
            self._lines.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
