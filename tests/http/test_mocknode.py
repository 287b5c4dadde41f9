"""The simulated node asked directly: what makes it an engine, and nothing else of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from fairlead.engines import ENGINES, Load, Reply, load
from fairlead.mocknode import MockNode, MockSettings, serving

Run = Callable[[Any], Any]
CHAT = "/v1/chat/completions"


class Asker:
    def __init__(self, node: MockNode, session: aiohttp.ClientSession) -> None:
        self.node = node
        self.session = session

    async def chat(self, prompt: str = "hi", path: str = CHAT, **fields: Any) -> tuple[int, bytes]:
        said = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
        body = orjson.dumps({"model": "demo", **said, **fields})
        async with self.session.post(path, data=body, headers={"X-Request-Id": prompt}) as response:
            if response.status == 200:
                assert response.headers["X-Simulated"] == "1"
            return response.status, await response.read()

    async def text(self, prompt: str, **fields: Any) -> str:
        status, body = await self.chat(prompt, **fields)
        assert status == 200, body
        return str(orjson.loads(body)["choices"][0]["message"]["content"])

    async def get(self, path: str) -> Reply:
        async with self.session.get(path) as response:
            return Reply(response.status, await response.read())

    async def load(self) -> Load | None:
        return load(ENGINES["mock"], await self.get("/metrics"))

    async def started(self) -> list[str]:
        return [entry["id"] for entry in orjson.loads((await self.get("/mock/log")).body)["started"]]

    async def until(self, running: int, waiting: int, within_s: float = 1.0) -> None:
        async with asyncio.timeout(within_s):
            while (self.node.running, self.node.waiting) != (running, waiting):  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@asynccontextmanager
async def asking(**settings: Any) -> AsyncIterator[Asker]:
    node = MockNode(MockSettings(**settings))
    async with serving(node) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield Asker(node, session)


def test_the_same_seed_and_prompt_give_the_same_words(no_leaks: Run) -> None:
    async def main() -> None:
        quick = {"ttft_ms": 1, "token_ms": 0.1}
        async with asking(**quick) as one, asking(**quick) as two, asking(seed=2, **quick) as other:
            assert await one.text("hello") == await two.text("hello")
            assert await one.text("hello") != await one.text("goodbye")
            assert await one.text("hello") != await other.text("hello")
            assert (await one.text("hello", max_tokens=5)).split()[0] == "simulated"
            assert len((await one.text("hello", max_tokens=5)).split()) == 5

    no_leaks(main)


def test_more_than_its_slots_wait_in_order_of_arrival(no_leaks: Run) -> None:
    async def main() -> None:
        async with asking(slots=2, ttft_ms=30, tokens=1, kv_tokens=100) as asker:
            names = [f"r{number}" for number in range(5)]
            tasks = []
            for number, name in enumerate(names):
                tasks.append(asyncio.ensure_future(asker.text(name)))
                await asker.until(min(number + 1, 2), max(number - 1, 0))
            told = await asker.load()
            assert told == Load(2, 3, 0.04)  # one token of prompt, one of answer each
            await asyncio.gather(*tasks)
            assert await asker.started() == names
            assert await asker.load() == Load(0, 0, 0.0)

    no_leaks(main)


def test_a_client_that_leaves_stops_its_work_at_once(no_leaks: Run) -> None:
    async def main() -> None:
        async with asking(slots=1, ttft_ms=1, token_ms=50, tokens=1000) as asker:
            for stream in (False, True):
                runs = asyncio.ensure_future(asker.chat("runs", stream=stream))
                await asker.until(1, 0)
                waits = asyncio.ensure_future(asker.chat("waits", stream=stream))
                await asker.until(1, 1)
                waits.cancel()
                await asker.until(1, 0)
                runs.cancel()
                await asker.until(0, 0)
            assert await asker.started() == ["runs", "runs"]
            assert asker.node.served == 0

    no_leaks(main)


def test_a_larger_batch_is_slower_for_each(no_leaks: Run) -> None:
    async def main() -> None:
        async with asking(slots=4, ttft_ms=1, token_ms=2, batch_ms=10, tokens=11) as asker:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await asker.text("alone")
            alone_s = loop.time() - begun
            begun = loop.time()
            await asyncio.gather(*(asker.text(f"r{number}") for number in range(4)))
            together_s = loop.time() - begun
            # By the formula 21 ms, and 321 ms if all four came in one instant: who comes first is alone for a moment.
            # The upper bounds leave room for a busy machine.
            assert 0.020 <= alone_s < 1.5
            assert 0.150 <= together_s < 3.0

    no_leaks(main)


def test_a_stream_has_usage_only_if_asked(no_leaks: Run) -> None:
    async def main() -> None:
        async with asking(ttft_ms=1, token_ms=0.1, tokens=3) as asker:
            for path in (CHAT, "/v1/completions"):
                _, bare = await asker.chat("x", path, stream=True)
                _, told = await asker.chat("x", path, stream=True, stream_options={"include_usage": True})
                assert bare.endswith(b"data: [DONE]\n\n") and told.endswith(b"data: [DONE]\n\n")
                assert b"usage" not in bare
                last = orjson.loads(told.split(b"\n\n")[-3].removeprefix(b"data: "))
                assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
                assert last["choices"] == []

    no_leaks(main)


@pytest.mark.parametrize(
    "fields", [{"max_tokens": "5"}, {"max_tokens": 0}, {"max_tokens": -1}, {"n": 1.5}, {"n": [1]}, {"max_tokens": True}]
)
def test_numbers_that_are_none_are_refused(no_leaks: Run, fields: dict[str, Any]) -> None:
    async def main() -> None:
        async with asking(ttft_ms=1) as asker:
            status, body = await asker.chat(**fields)
            assert status == 400
            assert next(iter(fields)) in orjson.loads(body)["error"]["message"]

    no_leaks(main)


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", "/v1/responses", b"{}", "this simulated node has no POST /v1/responses"),
        ("DELETE", "/v1/models", b"", "this simulated node has no DELETE /v1/models"),
        ("POST", CHAT, b'{"model": "other"}', "no such model on this simulated node"),
    ],
)
def test_what_it_does_not_have_it_says_in_the_shape_of_the_api(
    no_leaks: Run, method: str, path: str, body: bytes, told: str
) -> None:
    async def main() -> None:
        async with asking() as asker, asker.session.request(method, path, data=body) as response:
            assert (response.status, response.headers["X-Simulated"]) == (404, "1")
            assert (await response.json())["error"]["message"] == told

    no_leaks(main)


def test_a_null_is_as_if_it_were_not_there(no_leaks: Run) -> None:
    async def main() -> None:
        async with asking(ttft_ms=1, token_ms=0.1) as asker:
            assert len((await asker.text("x", max_completion_tokens=None, max_tokens=2, n=None)).split()) == 2

    no_leaks(main)


def test_the_use_of_the_cache_can_be_pinned(no_leaks: Run) -> None:
    async def main() -> None:
        async with asking() as asker:
            for wanted, status, kv in (
                (b'{"kv":0.9}', 200, 0.9),
                (b'{"kv":1.1}', 400, 0.9),
                (b'{"other":1}', 400, 0.9),
                (b"[]", 400, 0.9),
                (b"no", 400, 0.9),
                (b'{"kv":null}', 200, 0.0),
            ):
                async with asker.session.post("/mock/set", data=wanted) as response:
                    assert response.status == status
                assert await asker.load() == Load(0, 0, kv)

    no_leaks(main)
