"""One listening address: its connections, their time limits, and aiohttp for what the lane does not carry.

Promise: no connection outlives its limits: one that sends nothing, sends too slowly, does not take what was written to
it or will not go is ended, because ``close()`` alone waits for a reader that never reads. Every answer is in the error
shape of the API, the ones to broken HTTP too, and has a request id. A client that leaves cancels what it asked for.

Theory. A connection is a ``Lane`` (ext/fairlead/wire/lane.pyx), which knows when it is to be looked at again; here is
the one heap of those times and the one timer that serves it. A request that is no inference request goes to a protocol
of aiohttp's behind the lane. The sockets' send buffers are bounded: what lies in the kernel of a slow reader is memory
too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from fairlead.clock import MILLISECOND_NS, SECOND_NS, Clock
from fairlead.core.heap import IndexedHeap
from fairlead.errors import ApiError, internal_error
from fairlead.headers import Common
from fairlead.inspection import check_content_encoding
from fairlead.policy import REQUEST_ID
from fairlead.wire.ids import make_request_id, sane_request_id
from fairlead.wire.inner import InnerTransport
from fairlead.wire.lane import Inbound, Lane
from fairlead.wire.patience import Settings

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Begin = Callable[[Inbound, Lane], Any]

SERVER: Final = "fairlead"
SEND_BUFFER_BYTES: Final = 64 * 1024
BACKLOG: Final = 1024
# What aiohttp reads of a request that was answered before its body was there, in seconds.
LINGER_S: Final = 1.0
SHUTDOWN_S: Final = 1.0
_NEVER_S: Final = 1e9  # the lane keeps the time of idle connections, not aiohttp


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one listener's connections. stall_ns: how long one may take nothing of what was written to it."""

    connections: int
    head_ns: int
    body_ns: int
    keep_alive_ns: int
    stall_ns: int
    head_bytes: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Inference:
    """What the lane needs to carry requests to the gateway; begin gives the call, or None when it has ended."""

    paths: frozenset[str] = frozenset()
    begin: Begin = field(default=lambda inbound, lane: None)
    reject: Callable[[ApiError, str, str], None] = field(default=lambda error, request_id, path: None)


class Listener:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        limits: Limits,
        clock: Clock,
        inference: Inference | None = None,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._clock = clock
        self._inference = inference or Inference()
        self._application = Application(loop, handler)
        self._settings = self._make_settings()
        self._open: dict[int, Lane] = {}  # by slot
        self._free = list(range(limits.connections - 1, -1, -1))
        self._alarms = IndexedHeap(limits.connections)
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ns = 0
        self._listening: asyncio.Server | None = None
        self._closing = False
        self._emptied = asyncio.Event()
        self._emptied.set()
        self.address: tuple[str, int] | None = None

    def _make_settings(self) -> Settings:
        settings, limits = Settings(), self._limits
        settings.loop = self._loop
        settings.now_ns = self._clock
        settings.common = Common(SERVER).lines
        settings.begin = self._inference.begin
        settings.unbegun = unbegun
        settings.refusal = self._refusal
        settings.wrong_coding = self._wrong_coding
        settings.inner = self._application.behind
        settings.alarm = self._set_alarm
        settings.opened = self._opened
        settings.gone = self._gone
        settings.paths = {path.encode(): path for path in self._inference.paths}
        settings.body_max = limits.body_bytes
        settings.head_max = limits.head_bytes
        settings.head_ns = limits.head_ns
        settings.body_ns = limits.body_ns
        settings.keep_alive_ns = limits.keep_alive_ns
        settings.stall_ns = limits.stall_ns
        return settings

    # Life ----------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> None:
        """Listen. OSError if the address can't be had; port 0: any."""
        self._listening = await self._loop.create_server(self._accept, host, port, reuse_address=True, backlog=BACKLOG)
        for plug in self._listening.sockets:  # what is accepted inherits it
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.address = self._listening.sockets[0].getsockname()[:2]

    def stop_accepting(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def drain(self) -> None:
        """From now on a connection ends with the answer that is on its way."""
        self._settings.draining = True

    async def close(self) -> None:
        """End what is left: idle connections now, those with an answer on its way after it, the rest by abort."""
        self.stop_accepting()
        self._closing = True
        self.drain()
        for lane in list(self._open.values()):
            lane.shut()
        self._application.pre_shutdown()
        await self._application.shutdown(SHUTDOWN_S)
        for lane in list(self._open.values()):
            lane.abort()
        await self._emptied.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Raise AssertionError unless every connection has one slot and one alarm, and every other slot is free."""
        taken, free = len(self._open), len(self._free)
        assert taken + free == self._limits.connections, f"{taken} slots are taken and {free} free"
        assert len(self._alarms) == taken, f"{len(self._alarms)} alarms are set for {taken} connections"
        assert not (taken and self._timer is None), "connections are open, and no timer runs"

    @property
    def open_count(self) -> int:
        return len(self._open)

    # What the lanes need -------------------------------------------------------------------------

    def _accept(self) -> asyncio.Protocol:
        """The protocol of a connection that was just accepted."""
        if not self._free:
            return Refusal(self._limits.connections)
        return cast(asyncio.Protocol, Lane(self._settings))

    def _opened(self, lane: Lane) -> int:
        if self._closing or not self._free:  # it was accepted just before that
            return -1
        slot = self._free.pop()
        self._open[slot] = lane
        self._emptied.clear()
        return slot

    def _gone(self, lane: Lane) -> None:
        del self._open[lane.slot]
        self._alarms.remove(lane.slot)
        self._free.append(lane.slot)
        if not self._open:
            self._emptied.set()

    def _refusal(self, code: str, message: str, request_id: str, path: str) -> ApiError:
        error = ApiError(code, message)
        self._inference.reject(error, request_id, path)
        return error

    def _wrong_coding(self, value: str, request_id: str, path: str) -> ApiError | None:
        try:
            check_content_encoding(value)
        except ApiError as error:
            self._inference.reject(error, request_id, path)
            return error
        return None

    # Time ----------------------------------------------------------------------------------------

    def _set_alarm(self, lane: Lane, at_ns: int) -> None:
        if lane.slot in self._alarms:
            self._alarms.update(at_ns, lane.slot)
        else:
            self._alarms.push(at_ns, lane.slot)
        if self._timer is None or at_ns < self._armed_ns:
            self._arm(at_ns)

    def _arm(self, at_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_ns = max(at_ns - self._clock(), 0)
        self._timer = self._loop.call_later((delay_ns // MILLISECOND_NS + 2) / 1000, self._fire)
        self._armed_ns = at_ns

    def _fire(self) -> None:
        self._timer = None
        now_ns = self._clock()
        for slot in self._alarms.pop_due(now_ns):
            lane = self._open.get(slot)
            if lane is not None:
                self._set_alarm(lane, self._look_at(lane, now_ns))
        top = self._alarms.top()
        if top is not None:
            self._arm(top[0])

    def _look_at(self, lane: Lane, now_ns: int) -> int:
        """When to look at it again. A defect that shows on one connection must not stop the clock of the others."""
        try:
            return lane.on_alarm(now_ns)
        except Exception:
            log.exception("a connection's time could not be looked at")
            lane.abort()
            return now_ns + SECOND_NS


class Application(web.Server):
    """aiohttp's server without a socket: its protocols live behind lanes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handler: Handler) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            loop=loop,
            keepalive_timeout=_NEVER_S,
            access_log=None,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )

    def behind(self, lane: Lane) -> RequestHandler:
        """A protocol that has the lane for its connection."""
        protocol = Protocol(self, loop=self._loop, **self._kwargs)
        protocol.connection_made(InnerTransport(lane))
        return protocol


class Protocol(RequestHandler):
    """aiohttp's, which tells its lane when it has answered."""

    __slots__ = ()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        transport = self.transport
        if isinstance(transport, InnerTransport):  # else the connection is lost
            transport.answered(bool(resp.keep_alive) and not self._force_close)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp itself answers: to what is no HTTP request, and for a handler that raised."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client left while its request was read
        if status == 500:
            log.error("a request handler failed", exc_info=exc)
        if request.writer.output_size > 0:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionError("half an answer had been sent")
        error = ApiError("bad_request", "this is not a valid HTTP/1.1 request")
        if status == 500:
            error = internal_error()
        response = error_response(error, "", request_id_of(request.headers))
        response.force_close()
        return response


class Refusal(asyncio.Protocol):
    """A connection too many."""

    def __init__(self, connections_max: int) -> None:
        self._message = f"{connections_max} connections are open, the most there may be: try again later"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = ApiError("overloaded", self._message).body("")
        head = (
            f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{REQUEST_ID}: {make_request_id()}\r\nRetry-After: 1\r\nretry-after-ms: 1000\r\n"
            f"Server: {SERVER}\r\nConnection: close\r\n\r\n"
        )
        cast(asyncio.Transport, transport).write(head.encode() + body)
        transport.close()


def unbegun(error: Exception) -> ApiError:
    """What a client is told whose request raised that when it was begun."""
    if isinstance(error, ApiError):
        return error
    log.error("a request could not be begun", exc_info=error)
    return internal_error()


def request_id_of(headers: Any) -> str:
    """The client's own if it is sane, else a new one. headers: aiohttp's."""
    return sane_request_id(headers.get(REQUEST_ID)) or make_request_id()


def json_response(body: bytes, request_id: str, status: int = 200) -> web.Response:
    headers = {REQUEST_ID: request_id, "Server": SERVER}
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error_response(error: ApiError, path: str, request_id: str) -> web.Response:
    response = json_response(error.body(path), request_id, error.status)
    response.headers.update(error.headers)
    return response
