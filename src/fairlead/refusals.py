"""What a client is told whose request ended in the queue, or took too long at a node."""

from __future__ import annotations

from fairlead import headers
from fairlead.errors import ApiError


def queue_timeout(waited_ms: int, limit_ms: int, position: int, estimate_s: int | None) -> ApiError:
    """It waited until its limit. position and estimate_s as they were when it came."""
    return ApiError(
        "queue_timeout",
        f"the request waited {waited_ms} ms for a free slot, its limit is {limit_ms} ms (X-Queue-Timeout-Ms,"
        " at most queue.timeout): try again later, or allow a longer wait",
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


def total_timeout(spent_ms: int, limit_ms: int) -> ApiError:
    return ApiError(
        "total_timeout",
        f"the request took {spent_ms} ms, its limit is {limit_ms} ms (X-Request-Timeout-Ms, at most timeouts.total):"
        " allow more time, or ask for less",
    )


def first_byte_timeout(waited_ms: int, limit_ms: int) -> ApiError:
    return ApiError(
        "first_byte_timeout",
        f"the node sent no byte of its answer in {waited_ms} ms, its limit is {limit_ms} ms (timeouts.first_byte):"
        " try again later",
    )


def idle_timeout(stood_still_ms: int, limit_ms: int) -> ApiError:
    return ApiError(
        "idle_timeout",
        f"the node's answer stood still for {stood_still_ms} ms, its limit is {limit_ms} ms (timeouts.idle):"
        " try again later",
    )
