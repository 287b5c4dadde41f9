"""What the public listener answers itself: models, health, and everything that is no inference request.

Promise: a path is matched as its exact bytes or not at all; nothing is decoded before it is compared. Inference
requests do not come here: the lane carries them to the gateway (see listener).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

import orjson
from aiohttp import web

from fairlead.errors import ApiError
from fairlead.gateway import Gateway
from fairlead.listener import error_response, json_response, request_id_of
from fairlead.strict import shown

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

    def __init__(self, gateway: Gateway, nodes: ModelList, health: Health) -> None:
        self._gateway = gateway
        self._nodes = nodes
        self._health = health

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = request_id_of(request.headers)
        path = request.raw_path.partition("?")[0]
        try:
            response = self._route(request, path, request_id)
        except ApiError as error:
            response = error_response(error, path, request_id)
            if not request.content.is_eof():
                response.force_close()  # the rest of its body is in the way of the next request
        if self._gateway.draining:
            response.force_close()
        return response

    def _route(self, request: web.BaseRequest, path: str, request_id: str) -> web.StreamResponse:
        if path in self._gateway.paths:
            allow(request, path, "POST")
        if path in HEALTH:
            allow(request, path, "GET", "HEAD")
            return self._health.answer(path, request_id)
        if path == MODELS or path.startswith(MODELS + "/"):
            allow(request, path, "GET", "HEAD")
            return json_response(self._models(path), request_id)
        raise self._nothing_at(path)

    def _nothing_at(self, path: str) -> ApiError:
        near = difflib.get_close_matches(path, (*self._gateway.paths, MODELS, *HEALTH), n=1)
        advice = (
            f"the nearest path is {near[0]}" if near else f"see GET {MODELS} and the paths of OpenAI's API, under /v1"
        )
        return ApiError("not_found", f"there is nothing at {shown(path)}: {advice}")

    def _models(self, path: str) -> bytes:
        models = self._nodes.models()
        if path == MODELS:
            return orjson.dumps({"object": "list", "data": models})
        name = unquote(path.removeprefix(MODELS + "/"))
        for model in models:
            if model["id"] == name:
                return orjson.dumps(model)
        raise self._gateway.unknown(name, "")


def allow(request: web.BaseRequest, path: str, *methods: str) -> None:
    """Raises ApiError 405 unless the method is one of these."""
    if request.method not in methods:
        allowed = ", ".join(methods)
        message = f"{shown(path)} takes {allowed}, not {shown(request.method)}"
        raise ApiError("method_not_allowed", message, headers={"Allow": allowed})
