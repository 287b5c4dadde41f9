"""What kind of engine a node runs, what it serves and how busy it is, read from its own answers.

Promise: pure functions over answers that were fetched elsewhere. Nothing an engine says is taken on trust: a number
that can't be one, or is out of range, is as if it had not been said.

Engines differ in names only, so they are a table. Three traps. vLLM labels its gauges per data-parallel engine, and
SGLang tells its limit per data-parallel rank: counts are summed, ratios take the worst. Names change: SGLang's prefix
went from ``sglang:`` to ``sglang_``, and a page may have both; the first spelling that is there counts. And a plain
name is no proof: an engine is recognised by what only it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

SLOTS_MAX: Final = 65_536
MODELS_MAX: Final = 1_000
_NEWLINE: Final = 0x0A
CONTEXT_MAX: Final = 2**31 - 1
MODEL_ID: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


@dataclass(frozen=True, slots=True)
class Engine:
    """Paths of the probes; names of the metrics, each in all its spellings; slots when it does not tell.

    Of slots_paths the first that tells counts. usage_per_choice: of several choices it reports one's usage.
    """

    kind: str
    title: str
    health: str
    metrics: str | None
    running: tuple[str, ...]
    waiting: tuple[str, ...]
    gpu: tuple[str, ...]
    slots_paths: tuple[str, ...]
    slots_default: int
    usage_per_choice: bool = False


def _both(*names: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in names for prefix in ("sglang:", "sglang_"))


_VLLM: Final = (
    ("vllm:num_requests_running",),
    ("vllm:num_requests_waiting",),
    ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
)
ENGINES: Final[dict[str, Engine]] = {
    engine.kind: engine
    for engine in (
        Engine("vllm", "vLLM", "/health", "/metrics", *_VLLM, (), 16),
        Engine(
            "sglang",
            "SGLang",
            "/health",
            "/metrics",
            _both("num_running_reqs"),
            _both("num_queue_reqs"),
            _both("token_usage"),
            ("/server_info", "/get_server_info"),
            16,
        ),
        Engine(
            "llamacpp",
            "llama.cpp",
            "/health",
            "/metrics",
            ("llamacpp:requests_processing",),
            ("llamacpp:requests_deferred",),
            ("llamacpp:kv_cache_usage_ratio",),
            ("/props",),
            1,
            usage_per_choice=True,
        ),
        Engine("ollama", "Ollama", "/api/version", None, (), (), (), (), 1),
        Engine("mock", "simulated node", "/health", "/metrics", *_VLLM, ("/props",), 4),
        Engine("openai", "OpenAI-compatible server", "/v1/models", None, (), (), (), (), 8),
    )
}


class Reply(NamedTuple):
    """An answer to a probe: status 0 means that there was none. server: what it calls itself in its head."""

    status: int
    body: bytes
    server: str = ""


def recognise(models: Reply, metrics: Reply, props: Reply, version: Reply) -> str:
    """The engine's kind from its answers to /v1/models, /metrics, /props and /api/version; "openai" if it is none."""
    owners = {str(entry.get("owned_by")) for entry in _entries(models)}
    if "fairlead-mock-node" in owners:
        return "mock"
    names = metrics.body if metrics.status == 200 else b""
    if "vllm" in owners or b"\nvllm:" in names:
        return "vllm"
    if "sglang" in owners or b"\nsglang:" in names or b"\nsglang_" in names:
        return "sglang"
    if "llamacpp" in owners or b"llamacpp:" in names or "total_slots" in _document(props):
        return "llamacpp"
    if isinstance(_document(version).get("version"), str) and metrics.status != 200:
        return "ollama"
    return "openai"


def model_list(reply: Reply) -> dict[str, dict[str, Any]] | None:
    """id -> the node's own entry of GET /v1/models; None if the answer is not such a list."""
    data = _document(reply).get("data", False)
    if not (isinstance(data, list) or data is None):  # null: an Ollama without a model
        return None
    models: dict[str, dict[str, Any]] = {}
    for entry in _entries(reply)[:MODELS_MAX]:
        model = entry.get("id")
        if isinstance(model, str) and MODEL_ID.fullmatch(model):
            created = entry.get("created")
            created = created if isinstance(created, int) and not isinstance(created, bool) else 0
            models.setdefault(model, {**entry, "id": model, "object": "model", "created": created})
    return models


def context_told(entry: dict[str, Any]) -> int | None:
    """Tokens, prompt and answer together, that one sequence of a model may have, by its entry of GET /v1/models."""
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    # llama.cpp's n_ctx is a slot's part of what it was started with, n_ctx_train what the model was made for.
    for value in (entry.get("max_model_len"), meta.get("n_ctx"), meta.get("n_ctx_train")):
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= CONTEXT_MAX:
            return value
    return None


def slots_told(engine: Engine, reply: Reply) -> int | None:
    """How many requests at once the engine says that it runs."""
    document = _document(reply)
    if "/props" in engine.slots_paths:
        return _slots(document.get("total_slots"))
    # What SGLang was asked for is a wish; what its memory allows, rank by rank, is what it runs.
    states = document.get("internal_states")
    ranks = [state for state in states if isinstance(state, dict)] if isinstance(states, list) else []
    effective = [_slots(rank.get("effective_max_running_requests_per_dp")) or 0 for rank in ranks]
    return _slots(sum(effective)) or _slots(document.get("max_running_requests"))


def _slots(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= SLOTS_MAX else None


class Load(NamedTuple):
    """gpu: use of the KV cache 0..1, None where it is not told."""

    running: int
    waiting: int
    gpu: float | None


def load(engine: Engine, reply: Reply) -> Load | None:
    """How busy the engine is; None if it does not tell."""
    if reply.status != 200:
        return None
    running, waiting = _values(reply.body, engine.running), _values(reply.body, engine.waiting)
    ratios = [value for value in _values(reply.body, engine.gpu) if 0.0 <= value <= 1.0]
    if not running and not waiting and not ratios:
        return None
    return Load(_count(running), _count(waiting), max(ratios, default=None))


def _values(body: bytes, spellings: tuple[str, ...]) -> list[float]:
    """All samples of a metric, under the first of its spellings that has any."""
    return next((values for name in spellings if (values := list(_samples(body, name.encode())))), [])


def _samples(body: bytes, name: bytes) -> Iterator[float]:
    """The values of one name in Prometheus' text format.

    Not prometheus_client's parser: it builds every sample of a page that a busy vLLM makes 200 kB long, every two
    seconds for every node, and takes 40 ms for it; finding a few names takes a hundredth of that.
    """
    at = body.find(name)
    while at >= 0:
        end = body.find(b"\n", at)
        line = body[at : end if end >= 0 else len(body)]
        if at == 0 or body[at - 1] == _NEWLINE:
            rest = line[len(name) :]
            if rest.startswith(b"{"):
                rest = b" " + rest[rest.rfind(b"}") + 1 :]
            value = _float(rest) if rest[:1] in (b" ", b"\t") else None
            if value is not None:
                yield value
        at = body.find(name, at + len(line))


def _float(text: bytes) -> float | None:
    """The first word, if it is a number; a time stamp may follow."""
    try:
        return float(text.split(None, 1)[0])
    except (ValueError, IndexError):
        return None


def _count(values: list[float]) -> int:
    return int(min(sum(value for value in values if 0.0 <= value < float("inf")), 1 << 20))


def _document(reply: Reply) -> dict[str, Any]:
    if reply.status != 200:
        return {}
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _entries(reply: Reply) -> list[dict[str, Any]]:
    data = _document(reply).get("data")
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
