"""What a client is told whose request ended in the queue."""

from __future__ import annotations

from fairlead import headers
from fairlead.errors import ApiError


def queue_timeout(waited_ms: int, limit_ms: int, position: int, estimate_s: int | None) -> ApiError:
    """It waited until its limit. position and estimate_s as they were when it came."""
    return ApiError(
        "queue_timeout",
        f"the request waited {waited_ms} ms for a free slot, its limit is {limit_ms} ms: try again later,"
        " or allow a longer wait",
        headers={headers.SHOULD_RETRY: "false", **headers.place_headers(position, estimate_s)},
        extra={"waited_ms": waited_ms},
    )


def pushed_out(waited_ms: int, retry_ms: int, position: int, estimate_s: int | None) -> ApiError:
    """It gave way, because its user has more than its share of a full queue."""
    return ApiError(
        "queue_pushed_out",
        f"the queue is full, and after {waited_ms} ms this request gave way to a user who has less than its share of"
        " it, because this user has more: try again later, or send fewer requests at once",
        headers=headers.retry_headers(retry_ms) | headers.place_headers(position, estimate_s),
        extra={"waited_ms": waited_ms},
    )
