"""A simulated engine: the shape of an inference server, with made-up words.

Promise: from outside it behaves as an engine with continuous batching does: a first token after a while, further
ones at a pace that slows as the batch grows, a bounded number of requests at once and a queue of its own behind
them, plain and streamed answers with ``usage``, metrics under vLLM's names. A client that leaves stops its
generation at once. It says of itself everywhere that it is simulated, and the same seed and prompt give the same
words.

Time per token = token_ms + batch_ms x (requests that run besides this one). Each token is due at its own absolute
time, so the pace is right on average however late the loop is.

``GET /mock/log`` lists what was started, in order, and how many tokens were made for it; ``POST /mock/set
{"kv": 0.9}`` pins the reported use of the KV cache (null: by the tokens that are held).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

OWNER: Final = "fairlead-mock-node"
TEXT: Final = (
    "lines lead many past one corner without chafing the rope runs fair over deck and block from bow to winch "
    "while wind and water pull each hand waits its turn then hauls"
)
WORDS: Final = TEXT.split()
LOG_MAX: Final = 10_000
TOKENS_MAX: Final = 1 << 20
CHOICES_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class MockSettings:
    """What is simulated. Times in milliseconds; tokens: length of an answer whose max_tokens does not say less.

    per_event: tokens that one event of a stream brings, as with vLLM's --stream-interval; nulls: events have
    ``"usage":null`` though nobody asked, as SGLang's. kv_tokens is also what it tells as a model's max_model_len.
    """

    name: str = "mock"
    models: tuple[str, ...] = ("demo",)
    slots: int = 4
    ttft_ms: float = 50.0
    token_ms: float = 10.0
    batch_ms: float = 1.0
    tokens: int = 32
    kv_tokens: int = 4096
    seed: int = 1
    per_event: int = 1
    nulls: bool = False


class MockNode:
    """One simulated engine; ``app()`` is what serves it."""

    def __init__(self, settings: MockSettings) -> None:
        self.settings = settings
        self.running = 0
        self.waiting = 0
        self.served = 0
        self.kv: float | None = None
        self.mute_metrics = False
        self._kv_held = 0
        self._slots = asyncio.Semaphore(settings.slots)
        self._log: deque[dict[str, Any]] = deque(maxlen=LOG_MAX)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/props", self._props)
        app.router.add_get("/mock/log", self._show_log)
        app.router.add_post("/mock/set", self._set)
        app.router.add_route("*", "/{path:.*}", self._nothing)
        app.on_response_prepare.append(label)
        return app

    # What an engine does ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _slot(self, request: web.Request, body: dict[str, Any], held: int) -> AsyncIterator[dict[str, Any]]:
        """A place in the batch, in the order of arrival, and the tokens it holds in the cache meanwhile. Gives the
        request's entry in the log."""
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self._kv_held += held
        entry = {"id": request.headers.get("X-Request-Id", ""), "path": request.path, "user": body.get("user")}
        entry |= {"prompt": prompt_of(body)[:200], "made": 0}
        self._log.append(entry)
        try:
            yield entry
            self.served += 1
        finally:
            self.running -= 1
            self._kv_held -= held
            self._slots.release()

    async def _tokens(self, prompt: str, count: int, entry: dict[str, Any]) -> AsyncIterator[str]:
        loop, settings = asyncio.get_running_loop(), self.settings
        chooser = random.Random(f"{settings.seed} {prompt}")
        due = loop.time() + settings.ttft_ms / 1000
        for i in range(count):
            await asyncio.sleep(due - loop.time())
            entry["made"] += 1
            yield ("simulated" if i == 0 else " " + chooser.choice(WORDS))
            due += (settings.token_ms + settings.batch_ms * (self.running - 1)) / 1000

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        prompt = prompt_of(body)
        count = self._number(body, self.settings.tokens, TOKENS_MAX, "max_completion_tokens", "max_tokens")
        choices = self._number(body, 1, CHOICES_MAX, "n")
        usage = {"prompt_tokens": tokens_in(prompt), "completion_tokens": count * choices}
        usage["total_tokens"] = sum(usage.values())
        answer = Answer(self.settings, request, body, usage, choices)
        async with self._slot(request, body, usage["total_tokens"]) as entry:
            tokens = self._tokens(prompt, count, entry)
            if body.get("stream"):
                try:
                    return await answer.stream(tokens)
                except ConnectionResetError:  # the client has just left, and the handler is about to be cancelled
                    raise asyncio.CancelledError from None
            text = "".join([token async for token in tokens])
        return web.Response(body=answer.plain(text), content_type="application/json")

    async def _embed(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        inputs = body.get("input", "")
        inputs = inputs if isinstance(inputs, list) else [inputs]
        async with self._slot(request, body, 0):
            await asyncio.sleep(self.settings.ttft_ms / 1000)
        data = [
            {"object": "embedding", "index": i, "embedding": [random.Random(f"{text}{d}").random() for d in range(8)]}
            for i, text in enumerate(inputs)
        ]
        usage = {"prompt_tokens": sum(tokens_in(str(text)) for text in inputs)}
        usage["total_tokens"] = usage["prompt_tokens"]
        return json_answer({"object": "list", "model": body.get("model"), "data": data, "usage": usage})

    async def _tokenize(self, request: web.Request) -> web.Response:
        count = tokens_in(prompt_of(await self._body(request)))
        return json_answer({"count": count, "max_model_len": self.settings.kv_tokens, "tokens": list(range(count))})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as error:
            raise self._wrong(web.HTTPBadRequest, f"not JSON: {error}") from None
        if not isinstance(body, dict) or body.get("model") not in self.settings.models:
            raise self._wrong(web.HTTPNotFound, "no such model on this simulated node")
        return body

    def _number(self, body: dict[str, Any], default: int, most: int, *names: str) -> int:
        """The first of these members that is there and not null; at most this much is made of it."""
        value = next((body[name] for name in names if body.get(name) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(web.HTTPBadRequest, f"{' or '.join(names)} must be an integer from 1 up")
        return min(value, most)

    async def _nothing(self, request: web.Request) -> web.Response:
        raise self._wrong(web.HTTPNotFound, f"this simulated node has no {request.method} {request.path}")

    @staticmethod
    def _wrong(kind: type[web.HTTPException], message: str) -> web.HTTPException:
        error = {"error": {"message": message, "type": "invalid_request_error", "code": None}}
        return kind(text=orjson.dumps(error).decode(), content_type="application/json")

    # What an engine tells --------------------------------------------------------------------------------

    async def _models(self, _: web.Request) -> web.Response:
        told = {"object": "model", "created": 0, "owned_by": OWNER, "max_model_len": self.settings.kv_tokens}
        data = [{"id": model} | told for model in self.settings.models]
        return json_answer({"object": "list", "data": data})

    async def _health(self, _: web.Request) -> web.Response:
        return json_answer({"status": "ok", "simulated": True})

    async def _props(self, _: web.Request) -> web.Response:
        return json_answer({"total_slots": self.settings.slots, "simulated": True})

    async def _metrics(self, _: web.Request) -> web.Response:
        if self.mute_metrics:
            raise web.HTTPServiceUnavailable()
        label = f'{{engine="0",model_name="{self.settings.models[0]}",simulated="true"}}'
        kv = self.kv if self.kv is not None else min(1.0, self._kv_held / self.settings.kv_tokens)
        lines = [
            "# HELP vllm:num_requests_running Requests in the batch (simulated).",
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{label} {float(self.running)}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{label} {float(self.waiting)}",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{label} {kv:.6f}",
            "# TYPE vllm:request_success_total counter",
            f"vllm:request_success_total{label} {self.served}",
        ]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def _show_log(self, _: web.Request) -> web.Response:
        return json_answer({"started": list(self._log), "running": self.running, "waiting": self.waiting})

    async def _set(self, request: web.Request) -> web.Response:
        try:
            wanted = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            wanted = None
        kv = wanted.get("kv") if isinstance(wanted, dict) and set(wanted) == {"kv"} else "nothing"
        if not (kv is None or (isinstance(kv, int | float) and 0 <= kv <= 1)):
            raise web.HTTPBadRequest(text='only {"kv": 0..1 or null} can be set')
        self.kv = kv
        return json_answer({"kv": kv})


@dataclass(frozen=True, slots=True)
class Answer:
    """How a generation is written down, for chat or for plain completion, whole or in events."""

    settings: MockSettings
    request: web.Request
    body: dict[str, Any]
    usage: dict[str, int]
    choices: int

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        identity = self.request.headers.get("X-Request-Id", "0")
        return {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{identity}",
            "object": kind,
            "created": int(time.time()),
            "model": self.body["model"],
            "system_fingerprint": "simulated",
            "choices": choices,
        }

    @property
    def _chat(self) -> bool:
        return self.request.path == "/v1/chat/completions"

    def plain(self, text: str) -> bytes:
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choices = [{"index": i, **said, "logprobs": None, "finish_reason": "length"} for i in range(self.choices)]
        kind = "chat.completion" if self._chat else "text_completion"
        return orjson.dumps(self._frame(kind, choices) | {"usage": self.usage})

    async def stream(self, tokens: AsyncIterator[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        with_usage = bool((self.body.get("stream_options") or {}).get("include_usage"))
        rest: dict[str, Any] = {"usage": None} if with_usage or self.settings.nulls else {}

        async def event(choices: list[dict[str, Any]], more: dict[str, Any]) -> None:
            await response.write(b"data: " + orjson.dumps(self._frame(kind, choices) | more) + b"\n\n")

        async for text in together(tokens, self.settings.per_event):
            if not response.prepared:
                await response.prepare(self.request)
            for index in range(self.choices):
                said = {"delta": {"content": text}} if self._chat else {"text": text}
                await event([{"index": index, **said, "logprobs": None, "finish_reason": None}], rest)
        for index in range(self.choices):
            last: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
            await event([{"index": index, **last, "logprobs": None, "finish_reason": "length"}], rest)
        if with_usage:
            await event([], {"usage": self.usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def together(tokens: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    """So many at a time; the last may be fewer."""
    held: list[str] = []
    async for token in tokens:
        held.append(token)
        if len(held) == count:
            yield "".join(held)
            held.clear()
    if held:
        yield "".join(held)


def prompt_of(body: dict[str, Any]) -> str:
    """The text of the last message, or the prompt."""
    messages = body.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return str(messages[-1].get("content", ""))
    return str(body.get("prompt", ""))


def tokens_in(text: str) -> int:
    """A token per four bytes."""
    return max(1, len(text.encode()) // 4)


async def label(_: web.Request, response: web.StreamResponse) -> None:
    """Everything that a simulated node answers says so, errors too."""
    response.headers["X-Simulated"] = "1"


def json_answer(document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


@asynccontextmanager
async def serving(node: MockNode, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve a node; gives the port. OSError if it can't be had."""
    runner = web.AppRunner(node.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
