"""Which headers pass, which way, and which are ours.

Promise: only what stands on the lists here passes. What a client says of itself to other programs (its credentials,
its cookies, hop-by-hop and forwarding headers) never reaches a node; what a node says of itself (its name, its
cookies, its framing) never reaches a client. Content-Length is the one that is kept for its meaning.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fairlead.policy import REQUEST_ID, whole_seconds
from fairlead.wire.headers import Headers

HeaderList = list[tuple[str, str]]

EVENT_STREAM: Final = "text/event-stream"
SHOULD_RETRY: Final = "x-should-retry"

# The prefix belongs to OpenAI: organisation, project, version, processing time.
_OPENAI: Final = "openai-"
_TO_NODE: Final = frozenset(
    (
        "accept",
        "content-type",
        "user-agent",
        "traceparent",
        "tracestate",
        "baggage",
        "anthropic-version",
        "anthropic-beta",
    )
)
_TO_CLIENT: Final = frozenset(("content-type", "cache-control", "x-simulated"))
_VISIBLE: Final = re.compile(r"[\t\x20-\x7e]*")


def for_node(headers: Headers, request_id: str) -> bytes:
    """What a node is told, as lines of a head, but for what request_head writes: framing, Host, the node's own key."""
    return headers.lines(_TO_NODE, _OPENAI, f"Accept-Encoding: identity\r\n{REQUEST_ID}: {request_id}\r\n")


class NodeHead(NamedTuple):
    """A node's head as it goes on. encoded: the body has a coding that nobody asked for."""

    headers: HeaderList
    event_stream: bool
    encoded: bool


# What to do with a header of that spelling, of the last that came: its name as text if it goes on, and what it is.
_known: dict[bytes, tuple[str, str]] = {}
_KNOWN_MAX: Final = 1024


def _kind(raw_name: bytes) -> tuple[str, str]:
    """(name, "length", "coding", "pass" or "drop")."""
    name = raw_name.decode("latin-1")
    lower = name.lower()
    kind = {"content-length": "length", "content-encoding": "coding"}.get(lower)
    if kind is None:
        kind = "pass" if lower in _TO_CLIENT or lower.startswith(_OPENAI) else "drop"
    if len(_known) < _KNOWN_MAX:
        _known[raw_name] = name, kind
    return name, kind


def for_client(raw: list[tuple[bytes, bytes]]) -> NodeHead:
    """What a client is told of a node's head; a value that is not plain text is dropped."""
    headers: HeaderList = []
    event_stream = encoded = cache_control = False
    for raw_name, raw_value in raw:
        name, kind = _known.get(raw_name) or _kind(raw_name)
        if kind == "drop":
            continue
        value = raw_value.decode("latin-1")
        if kind == "length":
            headers.append(("Content-Length", value))
        elif kind == "coding":
            encoded = value.strip().lower() not in ("", "identity")
        elif _VISIBLE.fullmatch(value):
            headers.append((name, value))
            lower = name.lower()
            cache_control |= lower == "cache-control"
            event_stream |= lower == "content-type" and value.lower().startswith(EVENT_STREAM)
    if event_stream:
        headers.append(("X-Accel-Buffering", "no"))
        if not cache_control:
            headers.append(("Cache-Control", "no-cache"))
    return NodeHead(headers, event_stream, encoded)


def retry_headers(milliseconds: int) -> dict[str, str]:
    """When to come back, for every 429 and 503; the OpenAI SDKs read the finer one first."""
    return {"Retry-After": str(whole_seconds(milliseconds)), "retry-after-ms": str(milliseconds)}


def place_headers(position: int, estimate_s: int | None) -> dict[str, str]:
    """Place and wait as they were at entry; position 0: it never had to wait."""
    if not position:
        return {}
    place = {"X-Queue-Position": str(position)}
    return place if estimate_s is None else place | {"X-Estimated-Wait": str(estimate_s)}


def queue_headers(waited_ns: int | None, position: int, estimate_s: int | None) -> dict[str, str]:
    """waited_ns None: it was dispatched at once."""
    if waited_ns is None:
        return {"X-Queue-Status": "direct"}
    wait = {"X-Queue-Status": "queued", "X-Queue-Wait-Ms": str(waited_ns // 1_000_000)}
    return wait | place_headers(position, estimate_s)


def server_timing(queue_ns: int, connect_ns: int, first_byte_ns: int) -> str:
    """Milliseconds, as browsers' tools read them."""
    queue, connect, first_byte = queue_ns // 100_000, connect_ns // 100_000, first_byte_ns // 100_000
    return (
        f"queue;dur={queue // 10}.{queue % 10}, connect;dur={connect // 10}.{connect % 10},"
        f" ttfb;dur={first_byte // 10}.{first_byte % 10}"
    )
