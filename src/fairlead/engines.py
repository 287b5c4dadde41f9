"""What kind of engine a node runs, what it serves and how busy it is, read from its own answers.

Promise: pure functions over answers that were fetched elsewhere. Nothing an engine says is taken on trust: a number
that can't be one, or is out of range, is as if it had not been said.

Engines differ in names only, so they are a table. Three traps. vLLM labels its gauges per data-parallel engine:
counts are summed over labels, ratios take the worst. SGLang changed the prefix of its names from ``sglang:`` to
``sglang_``. And a plain name is no proof: an engine is recognised by what only it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

SLOTS_MAX: Final = 65_536
MODELS_MAX: Final = 1_000
MODEL_ID: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


@dataclass(frozen=True, slots=True)
class Engine:
    """Paths of the probes; names of the metrics, each in all its spellings; slots when it does not tell."""

    kind: str
    title: str
    health: str
    metrics: str | None
    running: tuple[str, ...]
    waiting: tuple[str, ...]
    gpu: tuple[str, ...]
    slots_path: str | None
    slots_default: int


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
        Engine("vllm", "vLLM", "/health", "/metrics", *_VLLM, None, 16),
        Engine(
            "sglang",
            "SGLang",
            "/health",
            "/metrics",
            _both("num_running_reqs"),
            _both("num_queue_reqs"),
            _both("token_usage"),
            "/get_server_info",
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
            "/props",
            1,
        ),
        Engine("ollama", "Ollama", "/api/version", None, (), (), (), None, 1),
        Engine("mock", "simulated node", "/health", "/metrics", *_VLLM, "/props", 4),
        Engine("openai", "OpenAI-compatible server", "/v1/models", None, (), (), (), None, 8),
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
    if reply.status != 200 or not isinstance(_document(reply).get("data"), list):
        return None
    models: dict[str, dict[str, Any]] = {}
    for entry in _entries(reply)[:MODELS_MAX]:
        model = entry.get("id")
        if isinstance(model, str) and MODEL_ID.fullmatch(model):
            created = entry.get("created")
            created = created if isinstance(created, int) and not isinstance(created, bool) else 0
            models.setdefault(model, {**entry, "id": model, "object": "model", "created": created})
    return models


def slots_told(engine: Engine, reply: Reply) -> int | None:
    """How many requests at once the engine says that it runs."""
    document = _document(reply)
    value = document.get("total_slots") if engine.slots_path == "/props" else document.get("max_running_requests")
    if engine.kind == "sglang" and value is None and isinstance(document.get("internal_states"), list):
        states = [state for state in document["internal_states"] if isinstance(state, dict)]
        value = states[0].get("effective_max_running_requests_per_dp") if states else None
    return value if isinstance(value, int) and 1 <= value <= SLOTS_MAX else None


class Load(NamedTuple):
    """gpu: use of the KV cache 0..1, None where it is not told."""

    running: int
    waiting: int
    gpu: float | None


def load(engine: Engine, reply: Reply) -> Load | None:
    """How busy the engine is; None if it does not tell."""
    if reply.status != 200:
        return None
    wanted: dict[str, list[float]] = {name: [] for name in (*engine.running, *engine.waiting, *engine.gpu)}
    _gather(reply.body, wanted)
    running = [value for name in engine.running for value in wanted[name]]
    waiting = [value for name in engine.waiting for value in wanted[name]]
    ratios = [value for name in engine.gpu for value in wanted[name] if 0.0 <= value <= 1.0]
    if not running and not waiting and not ratios:
        return None
    return Load(_count(running), _count(waiting), max(ratios, default=None))


def _gather(body: bytes, wanted: Mapping[str, list[float]]) -> None:
    """Collect the samples of some names from Prometheus' text format.

    Not prometheus_client's parser: it builds every sample of a page that a busy vLLM makes 200 kB long, every two
    seconds for every node; looking for a few names at the start of a line takes a hundredth of that.
    """
    for name, values in wanted.items():
        pattern = rb"^" + re.escape(name.encode()) + rb"(?:\{[^\n]*\})?[ \t]+([^ \t\r\n]+)"
        for match in re.finditer(pattern, body, re.MULTILINE):
            try:
                values.append(float(match[1]))
            except ValueError:
                continue


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
