"""The public listener: inference, models, health.

Promise: a path is matched as its exact bytes or not at all; nothing is decoded before it is compared. A body is read
whole and bounded, in size and in time, before its request is queued: from then on the connection has nothing to do but
to tell us that its client left. The answer goes out piece by piece as it comes in, and a client that reads slowly
slows its node, not the router.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

import orjson
from aiohttp import web
from multidict import CIMultiDict

from fairlead.config import Config
from fairlead.errors import ApiError
from fairlead.gateway import Call, Gateway, InboundRequest
from fairlead.headers import HeaderList
from fairlead.inspection import check_content_encoding
from fairlead.listener import SERVER, error_response, json_response, request_id_of
from fairlead.policy import REQUEST_ID
from fairlead.strict import shown

# Bytes of an answer that may lie between the node and the client's socket before the node is paused, and resumed.
HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
# Closes with RST: a reader for whom the end of the connection is the end of the answer must not take this for it.
_NO_LINGER: Final = struct.pack("ii", 1, 0)

MODELS: Final = "/v1/models"
HEALTH: Final = ("/health", "/health/ready", "/health/live")


class ModelList(Protocol):
    """What is shown of the registry."""

    def models(self) -> list[dict[str, Any]]: ...


class Health:
    """The two questions that a balancer asks; both listeners answer them."""

    def __init__(self, ready: Callable[[], str | None]) -> None:
        self._ready = ready

    def answer(self, path: str, request_id: str) -> web.Response:
        reason = None if path == "/health/live" else self._ready()
        if reason is None:
            return json_response(b'{"status":"ok"}', request_id)
        return json_response(orjson.dumps({"status": reason}), request_id, status=503)


class Frontend:
    """``handle`` is the Listener's handler."""

    def __init__(self, config: Config, gateway: Gateway, nodes: ModelList, health: Health) -> None:
        self._gateway = gateway
        self._nodes = nodes
        self._health = health
        self._body_max = config.limits.body
        self._body_s = config.timeouts.body_ns / 1e9

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = request_id_of(request)
        path, _, query = request.raw_path.partition("?")
        try:
            response = await self._route(request, path, query, request_id)
        except ApiError as error:
            response = error_response(error, path, request_id)
            if not request.content.is_eof():
                response.force_close()  # the rest of its body is in the way of the next request
        if self._gateway.draining:
            response.force_close()
        return response

    async def _route(self, request: web.BaseRequest, path: str, query: str, request_id: str) -> web.StreamResponse:
        if path in self._gateway.paths:
            allow(request, path, "POST")
            return await self._infer(request, path, query, request_id)
        if path in HEALTH:
            allow(request, path, "GET", "HEAD")
            return self._health.answer(path, request_id)
        if path == MODELS or path.startswith(MODELS + "/"):
            allow(request, path, "GET", "HEAD")
            return json_response(self._models(path), request_id)
        raise ApiError("not_found", f"there is nothing at {shown(path)}: see GET {MODELS} and the API's paths")

    def _models(self, path: str) -> bytes:
        models = self._nodes.models()
        if path == MODELS:
            return orjson.dumps({"object": "list", "data": models})
        name = unquote(path.removeprefix(MODELS + "/"))
        for model in models:
            if model["id"] == name:
                return orjson.dumps(model)
        raise ApiError("model_not_found", f"no node has ever offered the model {shown(name)}: see GET {MODELS}")

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        announced = request.content_length
        if announced is not None and announced > self._body_max:
            raise self._too_large(f"{announced} bytes long")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # not a byte of the answer
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(None if request.content.is_eof() else self._body_s):
                while piece := await request.content.readany():
                    size += len(piece)
                    if size > self._body_max:
                        raise self._too_large(f"longer than {self._body_max} bytes")
                    pieces.append(piece)
        except TimeoutError:
            message = f"the body was not there after {self._body_s:g} s (timeouts.body): {size} bytes of it were"
            raise ApiError("request_timeout", message) from None
        except web.RequestPayloadError:
            raise ApiError("bad_request", "the body's framing is broken") from None
        return b"".join(pieces)

    def _too_large(self, what: str) -> ApiError:
        message = f"the body is {what}, the limit is {self._body_max} bytes (limits.body): send less"
        return ApiError("request_too_large", message)

    async def _infer(self, request: web.BaseRequest, path: str, query: str, request_id: str) -> web.StreamResponse:
        carrier = Relay(asyncio.get_running_loop(), request_id)
        call = carrier.call = await self._begin(request, path, query, request_id, carrier)
        try:
            return await carrier.run(request)
        finally:
            call.client_gone()  # nothing, if the call has ended: it is on every way out that has not
            carrier.call = None

    async def _begin(self, request: web.BaseRequest, path: str, query: str, request_id: str, carrier: Relay) -> Call:
        """A function of its own, so that no frame holds the body while the answer streams."""
        try:
            check_content_encoding(request.headers.get("Content-Encoding"))
            body = await self._read_body(request)
        except ApiError as error:
            self._gateway.reject(error)
            raise
        inbound = InboundRequest(request_id, path, query, request.headers, body, request.remote)
        return self._gateway.begin(inbound, carrier)


class Relay:
    """Takes a call's answer as it comes, and writes it as fast as its client reads."""

    __slots__ = (
        "_changed",
        "_chunks",
        "_cut",
        "_ended",
        "_error",
        "_event",
        "_head",
        "_loop",
        "_paused",
        "_request_id",
        "_size",
        "call",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, request_id: str) -> None:
        self.call: Call | None = None
        self._loop = loop
        self._request_id = request_id
        self._changed: asyncio.Future[None] | None = None
        self._head: tuple[int, HeaderList] | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ended = False
        self._error: ApiError | None = None
        self._cut = False
        self._event: bytes | None = None

    # The call's side (gateway.Carrier)

    def head(self, status: int, headers: HeaderList) -> None:
        self._head = (status, headers)
        self._wake()

    def body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused and self.call is not None:
            self._paused = True
            self.call.pause()
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: ApiError) -> None:
        self._error = error
        self._wake()

    def cut(self, event: bytes | None) -> None:
        self._cut = self._ended = True
        self._event = event
        self._wake()

    # The client's side

    async def run(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, written but for its end. Raises ApiError when it is one."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._change()
        status, headers = self._head
        ours = [(REQUEST_ID, self._request_id), ("Server", SERVER)]
        response = web.StreamResponse(status=status, headers=CIMultiDict([*headers, *ours]))
        await response.prepare(request)
        while not (self._ended and not self._chunks):
            if self._chunks:
                await response.write(self._next())
            else:
                await self._change()
        if self._cut:
            await self._break_off(request, response)
        return response

    def _next(self) -> bytes:
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < LOW_WATER and self.call is not None:
            self._paused = False
            self.call.resume()
        return data

    async def _break_off(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Nothing may follow, not even the end of the chunks: aiohttp finds the connection gone."""
        if self._event is not None:
            await response.write(self._event)
            request.protocol.force_close()
        elif request.transport is not None:
            plug = request.transport.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            request.transport.abort()
        raise ConnectionResetError("the answer was broken off")

    async def _change(self) -> None:
        self._changed = self._loop.create_future()
        try:
            await self._changed
        finally:
            self._changed = None

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def allow(request: web.BaseRequest, path: str, *methods: str) -> None:
    """Raises ApiError 405 unless the method is one of these."""
    if request.method not in methods:
        allowed = ", ".join(methods)
        message = f"{shown(path)} takes {allowed}, not {shown(request.method)}"
        raise ApiError("method_not_allowed", message, headers={"Allow": allowed})
