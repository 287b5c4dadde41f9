"""What a request to a node looks like to the one who sends it.

Promise: after ``Pool.send`` the callbacks come in the order ``on_connected``, ``on_head``, ``on_body``..., ``on_end``,
and ``on_lost`` ends it at any point; exactly one of the last two comes. After ``Link.abort`` nothing does.

Callbacks come from the event loop, except ``on_connected(True)``, which comes from inside ``Pool.send``.
``Link.pause`` stops the reading of the socket; what one read had brought is still delivered, ``on_end`` too. An
exception out of a callback is the caller's defect: the connection is aborted, the loop's exception handler is told, and
if the exchange had not ended yet, ``on_lost`` ends it with kind "internal", so that whoever counts leases gets this one
back.
"""

from __future__ import annotations

import asyncio
from typing import Literal, NamedTuple, Protocol

Phase = Literal["connect", "send", "head", "body"]
Kind = Literal["refused", "timeout", "reset", "eof", "protocol", "internal"]


class Lost(NamedTuple):
    """Why there is no whole answer. ``internal`` is the router's own fault (a callback that raised, no file
    descriptor left) and says nothing about the node. ``detail`` holds no byte that the node sent."""

    phase: Phase
    kind: Kind
    detail: str


class Link(Protocol):
    """What carries an exchange just now: a dial or a connection. abort cuts it, and no callback follows; whatever is
    called after that does nothing."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Exchange(Protocol):
    """One request to one node. Its link is the pool's to set, and None when it has ended. It may be sent again after
    ``on_lost``, from within it too."""

    link: Link | None

    def on_connected(self, reused: bool) -> None:
        """The request is about to be written; comes a second time, with False, when a stale connection was reused."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_read(self) -> None:
        """All that one read of the socket has brought is delivered, and it was not the end."""

    def on_end(self) -> None: ...
    def on_lost(self, reason: Lost) -> None: ...


def raised(loop: asyncio.AbstractEventLoop, callback: str, error: Exception) -> None:
    """What a callback of an exchange has raised goes to the loop's exception handler."""
    loop.call_exception_handler({"message": f"upstream: {callback} raised", "exception": error})
