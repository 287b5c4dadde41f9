"""How long a client's connection may be the way it is, and how it ends."""

import asyncio
from collections.abc import Callable
from typing import Any, final

from fairlead.wire.lane import Inbound, Lane

@final
class Settings:
    """What all connections of a listener share; the listener sets it once, but for draining.

    common() gives the header lines of every answer; begin(inbound, lane) the call, or None if it has ended;
    unbegun(what it raised) the error for the client; refusal(code, message, request_id, path) the error of that code;
    wrong_coding(value, request_id, path) an error or None; inner(lane) a protocol of aiohttp's that has the lane for
    its connection; alarm(lane, at_ns) has the lane's on_alarm called then or before; opened(lane) gives its number, or
    -1 if it is one too many; gone(lane). paths: the inference paths, as bytes and text. Times in ns, sizes in bytes.
    """

    loop: asyncio.AbstractEventLoop
    now_ns: Callable[[], int]
    common: Callable[[], bytes]
    begin: Callable[[Inbound, Lane], Any]
    refusal: Callable[[str, str, str, str], Exception]
    unbegun: Callable[[Exception], Exception]
    wrong_coding: Callable[[str, str, str], Exception | None]
    inner: Callable[[Lane], Any]
    alarm: Callable[[Lane, int], None]
    opened: Callable[[Lane], int]
    gone: Callable[[Lane], None]
    paths: dict[bytes, str]
    body_max: int
    head_max: int
    head_ns: int
    body_ns: int
    keep_alive_ns: int
    stall_ns: int
    draining: bool
