"""What the router needs to know of a request, read from its body; the body itself goes to the node as it came.

Promise: ``inspect`` gives facts that every engine would read the same way, or a 400 that names the field, the value
and the limit. Any bytes are safe: orjson limits nesting to 1,024 and refuses a byte order mark, invalid UTF-8, NaN
and lone surrogates.

Theory. Parsers differ in which of two equal keys they take, so a body could show the router one model and the engine
another. A parsed object has lost the second key; but if the keys counted in the raw bytes are as many as the object
has, there was none. Only when they differ does anybody look closer, and only a key that is read here is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from orjson import JSONDecodeError, loads

from fairlead.errors import ApiError
from fairlead.multipart import form_fields, is_multipart
from fairlead.strict import shown
from fairlead.wire.jsonscan import count_keys, top_level_keys

COMPLETIONS_PATH: Final = "/v1/completions"
FORM_PATH: Final = "/v1/audio/transcriptions"
JSON_PATHS: Final = frozenset(
    (
        "/v1/chat/completions",
        COMPLETIONS_PATH,
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/v1/score",
        "/tokenize",
        "/detokenize",
        "/v1/audio/speech",
        "/v1/images/generations",
    )
)
INFERENCE_PATHS: Final = JSON_PATHS | {FORM_PATH}
# Answered without a turn of the model, so they need not wait for one.
CHEAP_PATHS: Final = frozenset(("/v1/messages/count_tokens", "/tokenize", "/detokenize"))

MODEL_MAX: Final = 256
TOKENS_MAX: Final = 2**31 - 1
# Members that hold what a model reads. Of parts that are objects only these are looked into: no image, no audio.
_TEXT_KEYS: Final = ("messages", "prompt", "input", "system", "instructions", "query", "documents", "text_1", "text_2")
_PART_KEYS: Final = ("content", "text")
_PART_DEPTH_MAX: Final = 6  # messages > message > content > part > (a tool's result) content > part
_BYTES_PER_TOKEN: Final = 4

_KEYS_READ: Final = (
    b"model",
    b"stream",
    b"n",
    b"best_of",
    b"max_tokens",
    b"max_completion_tokens",
    b"prompt",
    b"user",
)
_FORM_FIELDS: Final = frozenset({"model", "stream"})
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass
class Facts:
    """width: sequences that the request makes an engine run at once; max_tokens: None if the client set none.

    text_bytes: UTF-8 bytes of the text that the model reads, 4 for a token that is given by its number; 0 if nobody
    asked for it.
    """

    path: str
    model: str
    stream: bool
    width: int
    max_tokens: int | None
    body_user: str | None
    size_bytes: int
    text_bytes: int = 0


def inspect(path: str, content_type: str, body: bytes, width_max: int, count_text: bool = False) -> Facts:
    """Facts of a POST to an inference path. Raises ApiError: invalid_json, missing_model, duplicate_key,
    invalid_value, invalid_header (a form without a usable boundary).

    The known paths are read as what they take, whatever the content type says; extra paths of a node by content type.
    count_text: look for text_bytes too, and for the ``max_output_tokens`` of /v1/responses.
    """
    if path == FORM_PATH or (path not in JSON_PATHS and is_multipart(content_type)):
        return _inspect_form(path, content_type, body)
    fields = _parse_object(body)
    max_tokens = _integer(fields, "max_tokens", 0, TOKENS_MAX)
    max_completion_tokens = _integer(fields, "max_completion_tokens", 0, TOKENS_MAX)
    if max_completion_tokens is not None:
        max_tokens = max_completion_tokens
    elif count_text and max_tokens is None:
        max_tokens = _output_limit(fields.get("max_output_tokens"))
    user = fields.get("user")
    model, stream = _model(fields.get("model")), _stream(fields.get("stream"))
    width = _width(path, fields, width_max)
    text_bytes = _read_bytes(fields) if count_text else 0
    body_user = user if isinstance(user, str) else None
    return Facts(path, model, stream, width, max_tokens, body_user, len(body), text_bytes)


def _output_limit(value: object) -> int | None:
    """For an estimate only, so that what no engine would take is no reason to refuse."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX else None


def _read_bytes(fields: dict[str, Any]) -> int:
    return sum(_text_bytes(fields.get(key), 0) for key in _TEXT_KEYS)


def _text_bytes(value: object, depth: int) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, int):
        return _BYTES_PER_TOKEN
    if depth == _PART_DEPTH_MAX:
        return 0
    if isinstance(value, list):
        return sum(_text_bytes(each, depth + 1) for each in value)
    if isinstance(value, dict):
        return sum(_text_bytes(value.get(key), depth + 1) for key in _PART_KEYS)
    return 0


def check_content_encoding(value: str | None) -> None:
    """Refuse a compressed body (ApiError 415): it would have to be inflated before its model can be read."""
    if value is not None and value.strip().lower() not in ("", "identity"):
        message = f"the header Content-Encoding is {shown(value)}: send the body as it is (identity)"
        raise ApiError("unsupported_encoding", message, param="Content-Encoding")


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        fields = loads(body)
    except JSONDecodeError as error:
        raise ApiError("invalid_json", f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(fields, dict):
        raise ApiError("invalid_json", "the body must be a JSON object with a `model`")
    if count_keys(body) != len(fields):
        keys = top_level_keys(body)
        counts = Counter(loads(b'"%b"' % key).encode() if b"\\" in key else key for key in keys)
        for key in _KEYS_READ:
            if counts[key] > 1:
                name = key.decode()
                raise ApiError("duplicate_key", f"the body has {counts[key]} keys {name!r}: send one", param=name)
    return fields


def _model(value: object) -> str:
    if value is None or value == "":
        raise ApiError("missing_model", "the request has no `model`: name one, see GET /v1/models", param="model")
    if not isinstance(value, str):
        raise ApiError("missing_model", f"`model` is {shown(value)}: it must be a string", param="model")
    if len(value) > MODEL_MAX or (not value.isprintable() and _CONTROL.search(value)):
        message = f"`model` is {shown(value)}: it must be 1..{MODEL_MAX} characters without control characters"
        raise ApiError("invalid_value", message, param="model")
    return value


def _stream(value: object) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ApiError("invalid_value", f"`stream` is {shown(value)}: it must be true or false", param="stream")
    return value


def _integer(fields: dict[str, Any], name: str, low: int, high: int, limit: str = "") -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        message = f"`{name}` is {shown(value)}: it must be an integer {low}..{high}{limit}"
        raise ApiError("invalid_value", message, param=name)
    return value


def _width(path: str, fields: dict[str, Any], width_max: int) -> int:
    """max(n, best_of) x prompts.

    Only completions run a list of prompts as so many sequences, each of which decodes for as long as its answer
    is. A list of embedding inputs goes through the engine as one batch without any decoding and is gone again, so
    it counts as one; so do the documents of a rerank.
    """
    limit = " (limits.width)"
    sequences = max(
        _integer(fields, "n", 1, width_max, limit) or 1,
        _integer(fields, "best_of", 1, width_max, limit) or 1,
    )
    prompts = _prompt_count(fields.get("prompt")) if path == COMPLETIONS_PATH else 1
    if sequences * prompts > width_max:
        message = (
            f"`prompt` has {prompts} prompts, times {sequences} sequences each (n, best_of): a request may run"
            f" {width_max} sequences (limits.width): split it"
        )
        raise ApiError("invalid_value", message, param="prompt")
    return sequences * prompts


def _prompt_count(prompt: object) -> int:
    """A list of strings or of token lists is many prompts; a list that begins with a token is one prompt."""
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return len(prompt)


def _inspect_form(path: str, content_type: str, body: bytes) -> Facts:
    fields = form_fields(content_type, body, _FORM_FIELDS)
    try:
        model, stream = (fields.get(name, b"").decode() for name in ("model", "stream"))
    except UnicodeDecodeError:
        raise ApiError("invalid_value", "the fields `model` and `stream` of the form must be UTF-8") from None
    if stream.lower() not in ("", "true", "false", "1", "0"):
        raise ApiError("invalid_value", f"`stream` is {shown(stream)}: it must be true or false", param="stream")
    return Facts(path, _model(model), stream.lower() in ("true", "1"), 1, None, None, len(body))
