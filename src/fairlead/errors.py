"""What a client is told when the router itself answers, and what an operator is told about a bad file.

Every refusal is one ``ApiError``: status, OpenAI-style ``type`` and ``code``, and a message that names the
thing, the value, the limit and what to do. ``body`` writes it in OpenAI's shape, or in Anthropic's on
``/v1/messages*``, because that is what the clients of those paths parse.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

# Status and type of every code the router answers with; the HTTP contract as data.
CODES: Final[dict[str, tuple[int, str]]] = {
    "bad_request": (400, "invalid_request_error"),
    "invalid_json": (400, "invalid_request_error"),
    "missing_model": (400, "invalid_request_error"),
    "duplicate_key": (400, "invalid_request_error"),
    "invalid_value": (400, "invalid_request_error"),
    "invalid_header": (400, "invalid_request_error"),
    "unsupported_encoding": (415, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "not_found": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "request_timeout": (408, "timeout_error"),
    "request_too_large": (413, "invalid_request_error"),
    "expectation_failed": (417, "invalid_request_error"),
    "queue_full": (429, "requests"),
    "queue_pushed_out": (429, "requests"),
    "user_queue_full": (429, "requests"),
    "internal_error": (500, "server_error"),
    "unsupported_coding": (501, "invalid_request_error"),
    "unsupported_method": (501, "invalid_request_error"),
    "unsupported_version": (505, "invalid_request_error"),
    "upstream_error": (502, "server_error"),
    "no_healthy_node": (503, "server_error"),
    "model_loading": (503, "server_error"),
    "draining": (503, "server_error"),
    "overloaded": (503, "server_error"),
    "queue_timeout": (504, "timeout_error"),
    "first_byte_timeout": (504, "timeout_error"),
    "idle_timeout": (504, "timeout_error"),
    "total_timeout": (504, "timeout_error"),
}

ANTHROPIC_TYPES: Final[dict[int, str]] = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A request ends here, with this answer. ``extra`` goes into the error object (``waited_ms``)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status, self.type = CODES[code]
        self.param = param
        self.headers = headers or {}
        self.extra = extra or {}

    def body(self, path: str) -> bytes:
        """The error document for the clients of ``path``."""
        if path.startswith("/v1/messages"):
            error: dict[str, Any] = {"type": ANTHROPIC_TYPES.get(self.status, "api_error"), "message": self.message}
            return orjson.dumps({"type": "error", "error": error | {"code": self.code} | self.extra})
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error | self.extra})

    def event(self, path: str) -> bytes:
        """The error as one event, for those who read a stream of ``path``."""
        name = b"event: error\n" if path.startswith("/v1/messages") else b""
        return name + b"data: " + self.body(path) + b"\n\n"


def internal_error() -> ApiError:
    """A defect of the router ended the request."""
    return ApiError("internal_error", "the router failed on this request; its log says why")


class ConfigError(Exception):
    """A configuration that can't be used; the message is the one line that the operator reads."""
