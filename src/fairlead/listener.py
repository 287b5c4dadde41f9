"""One listening address, carried by aiohttp: what both front ends need of it, done once.

Promise: every answer is in the error shape of the API, the ones to broken HTTP too, and has a request id. A client
that leaves cancels its handler. No connection outlives its limit: one that does not take what was written to it, or
will not go, is aborted, because ``close()`` waits for a reader that never reads.

The sockets' send buffers are bounded: what lies in the kernel of a slow reader is memory too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from fairlead.errors import ApiError
from fairlead.policy import REQUEST_ID, make_request_id, sane_request_id

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

SERVER: Final = "fairlead"
SEND_BUFFER_BYTES: Final = 64 * 1024
BACKLOG: Final = 1024
# What is read of a request that was answered before its body was there, in seconds.
LINGER_S: Final = 1.0
SHUTDOWN_S: Final = 1.0


class Listener(web.Server):
    """stall_s: how long a connection may take nothing of what was written; also how long a closing one may last."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        *,
        keep_alive_s: float,
        stall_s: float,
        connections_max: int,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            loop=loop,
            keepalive_timeout=keep_alive_s,
            access_log=None,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._stall_s = stall_s
        self._connections_max = connections_max
        self._open: dict[Protocol, asyncio.Transport] = {}
        self._stuck: dict[Protocol, float] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._listening: asyncio.Server | None = None
        self._closing = False
        self._emptied = asyncio.Event()
        self.address: tuple[str, int] | None = None

    def __call__(self) -> Any:
        """The protocol of a connection that was just accepted."""
        if len(self._open) >= self._connections_max:
            return Refusal(self._connections_max)
        return Protocol(self, loop=self._loop, **self._kwargs)

    async def start(self, host: str, port: int) -> None:
        """Listen. OSError if the address can't be had; port 0: any."""
        self._listening = await self._loop.create_server(self, host, port, reuse_address=True, backlog=BACKLOG)
        for plug in self._listening.sockets:  # what is accepted inherits it
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.address = self._listening.sockets[0].getsockname()[:2]

    def stop_accepting(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """End what is left: idle connections now, handlers that have their answers after those, the rest by abort."""
        self.stop_accepting()
        self.pre_shutdown()
        await self.shutdown(SHUTDOWN_S)
        self._closing = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for transport in list(self._open.values()):
            transport.abort()
        if self._open:
            await self._emptied.wait()

    def opened(self, protocol: Protocol, transport: asyncio.Transport) -> None:
        self._open[protocol] = transport
        self._emptied.clear()
        if self._closing:
            transport.abort()  # it was accepted just before the listening socket was closed

    def gone(self, protocol: Protocol) -> None:
        self._open.pop(protocol, None)
        self._stuck.pop(protocol, None)
        if not self._open:
            self._emptied.set()

    def stuck(self, protocol: Protocol) -> None:
        """From now on it has stall_s to move, or to be gone."""
        if protocol in self._open and not self._closing:
            self._stuck.setdefault(protocol, self._loop.time())
            if self._sweep is None:
                self._sweep = self._loop.call_later(self._stall_s / 4, self._abort_stuck)

    def moves(self, protocol: Protocol) -> None:
        self._stuck.pop(protocol, None)

    def _abort_stuck(self) -> None:
        self._sweep = None
        limit = self._loop.time() - self._stall_s
        for protocol, since in list(self._stuck.items()):
            if since <= limit:
                del self._stuck[protocol]
                self._open[protocol].abort()
        if self._stuck:
            self._sweep = self._loop.call_later(self._stall_s / 4, self._abort_stuck)


class Protocol(RequestHandler):
    """aiohttp's, with the listener's eyes on what it does not watch itself."""

    __slots__ = ("_listener",)

    def __init__(self, listener: Listener, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(listener, loop=loop, **options)
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._listener.opened(self, cast(asyncio.Transport, transport))  # uvloop's are no subclass
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.gone(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._listener.stuck(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._listener.moves(self)

    async def start(self) -> None:
        """Ends when the connection is to be closed."""
        try:
            await super().start()
        finally:
            self._listener.stuck(self)

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
            error = ApiError("internal_error", "the router failed on this request; its log says why")
        response = error_response(error, "", request_id_of(request))
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


def request_id_of(request: web.BaseRequest) -> str:
    """The client's own if it is sane, else a new one."""
    return sane_request_id(request.headers.get(REQUEST_ID)) or make_request_id()


def json_response(body: bytes, request_id: str, status: int = 200) -> web.Response:
    headers = {REQUEST_ID: request_id, "Server": SERVER}
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error_response(error: ApiError, path: str, request_id: str) -> web.Response:
    response = json_response(error.body(path), request_id, error.status)
    response.headers.update(error.headers)
    return response
