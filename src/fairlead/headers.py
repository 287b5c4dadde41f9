"""Which headers pass, which way, and which are ours.

Promise: only what stands on the lists here passes. What a client says of itself to other programs (its credentials,
its cookies, hop-by-hop and forwarding headers) never reaches a node; what a node says of itself (its name, its
cookies, its framing) never reaches a client. Content-Length is the one that is kept for its meaning.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from time import time
from typing import Final

from fairlead.clock import MILLISECOND_NS
from fairlead.policy import REQUEST_ID
from fairlead.rate import whole_seconds
from fairlead.wire.headers import Headers

EVENT_STREAM: Final = b"text/event-stream"
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
_VISIBLE: Final = re.compile(rb"[\t\x20-\x7e]*")
_DIRECT: Final = b"X-Queue-Status: direct\r\n"


def for_node(headers: Headers, request_id: str) -> bytes:
    """What a node is told, as lines of a head, but for what request_head writes: framing, Host, the node's own key."""
    return headers.lines(_TO_NODE, _OPENAI, f"Accept-Encoding: identity\r\n{REQUEST_ID}: {request_id}\r\n")


class NodeHead:
    """A node's head as it goes on, as lines. sized: they say the body's length; encoded: the body has a coding that
    nobody asked for."""

    lines: bytes
    sized: bool
    event_stream: bool
    encoded: bool

    def __init__(self, lines: bytes, sized: bool, event_stream: bool, encoded: bool) -> None:
        self.lines = lines
        self.sized = sized
        self.event_stream = event_stream
        self.encoded = encoded


class Known:
    """What to do with a node's header of this spelling, and what its last value came to, for a node says much the same
    in each answer. line: b"" if it does not go on."""

    def __init__(self, raw_name: bytes) -> None:
        self.name = raw_name.decode("latin-1")
        lower = self.name.lower()
        self.is_length = lower == "content-length"
        self.is_type = lower == "content-type"
        self.is_cache_control = lower == "cache-control"
        self.is_coding = lower == "content-encoding"
        self.passes = self.is_length or lower in _TO_CLIENT or lower.startswith(_OPENAI)
        self.value: bytes | None = None
        self.line = b""
        self.event_stream = False

    def look_at(self, value: bytes) -> None:
        name = "Content-Length" if self.is_length else self.name
        self.value = value
        self.line = f"{name}: ".encode("latin-1") + value + b"\r\n" if _VISIBLE.fullmatch(value) else b""
        self.event_stream = self.is_type and bool(self.line) and value.lower().startswith(EVENT_STREAM)


_known: dict[bytes, Known] = {}
_KNOWN_MAX: Final = 1024
_VALUE_KEPT_MAX: Final = 256


def _know(raw_name: bytes, value_bytes: int) -> Known:
    known = Known(raw_name)
    if len(_known) < _KNOWN_MAX and value_bytes <= _VALUE_KEPT_MAX:
        _known[raw_name] = known
    return known


def for_client(raw: list[tuple[bytes, bytes]]) -> NodeHead:
    """What a client is told of a node's head; a value that is not plain text is dropped."""
    lines: list[bytes] = []
    sized = event_stream = encoded = cache_control = False
    for raw_name, raw_value in raw:
        known = _known.get(raw_name)
        if known is None or len(raw_value) > _VALUE_KEPT_MAX:
            known = _know(raw_name, len(raw_value))
        if known.passes:
            if known.value != raw_value:
                known.look_at(raw_value)
            lines.append(known.line)
            sized = sized or known.is_length
            event_stream = event_stream or known.event_stream
            cache_control = cache_control or (known.is_cache_control and known.line != b"")
        elif known.is_coding:
            encoded = raw_value.strip().lower() not in (b"", b"identity")
    if event_stream:
        lines.append(b"X-Accel-Buffering: no\r\n")
        if not cache_control:
            lines.append(b"Cache-Control: no-cache\r\n")
    return NodeHead(b"".join(lines), sized, event_stream, encoded)


class Common:
    """The header lines of every answer, made once a second."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._second = 0
        self._lines = b""

    def lines(self) -> bytes:
        second = int(time())
        if second != self._second:
            self._second = second
            self._lines = f"Date: {formatdate(second, usegmt=True)}\r\nServer: {self._server}\r\n".encode("ascii")
        return self._lines


def retry_headers(milliseconds: int) -> dict[str, str]:
    """When to come back, for every 429 and 503; the OpenAI SDKs read the finer one first."""
    return {"Retry-After": str(whole_seconds(milliseconds)), "retry-after-ms": str(milliseconds)}


def place_headers(position: int, estimate_s: int | None) -> dict[str, str]:
    """Place and wait as they were at entry; position 0: it never had to wait."""
    if not position:
        return {}
    place = {"X-Queue-Position": str(position)}
    return place if estimate_s is None else place | {"X-Estimated-Wait": str(estimate_s)}


def lines_of(headers: dict[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("ascii")


def queue_lines(waited_ns: int | None, position: int, estimate_s: int | None) -> bytes:
    """waited_ns None: it was dispatched at once. Else as in place_headers, whose way is for those who are refused."""
    if waited_ns is None:
        return _DIRECT
    wait = b"X-Queue-Status: queued\r\nX-Queue-Wait-Ms: %d\r\n" % (waited_ns // MILLISECOND_NS)
    if not position:
        return wait
    if estimate_s is None:
        return b"%bX-Queue-Position: %d\r\n" % (wait, position)
    return b"%bX-Queue-Position: %d\r\nX-Estimated-Wait: %d\r\n" % (wait, position, estimate_s)
