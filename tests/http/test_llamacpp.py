"""A real engine behind the router: llama.cpp's server, driven by the openai SDK.

What goes through the router must be what the engine says when it is asked directly, and what a client lets go of must
be let go of by the engine.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest
from rig import Rig, charges, routed

from engines.llama import IS_THERE, WHY_NOT, launch, llama

Run = Callable[[Any], Any]
pytestmark = [pytest.mark.engine, pytest.mark.skipif(not IS_THERE, reason=WHY_NOT)]
SAY = [{"role": "user", "content": "Hi there"}]


def entry(port: int, name: str = "llama", **more: Any) -> dict[str, Any]:
    return {"name": name, "url": f"http://127.0.0.1:{port}"} | more


def sdk(url: str, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


async def say(client: openai.AsyncOpenAI, prompt: str = "Hi there", tokens: int = 24) -> str:
    answer = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=tokens, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    return str(answer.choices[0].message.content)


async def stream(client: openai.AsyncOpenAI, prompt: str = "Hi there", tokens: int = 24) -> tuple[str, int]:
    """(text, chunks with text)"""
    pieces = []
    async for chunk in await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=tokens, temperature=0, stream=True
    ):
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
    return "".join(pieces), len(pieces)


def engine_is_busy(port: int) -> float:
    """Requests that llama.cpp itself says it works on."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("llamacpp:requests_processing "):
                return float(line.split()[1])
    raise AssertionError("llama.cpp does not say how much it works on")


async def becomes_idle(port: int, within_s: float = 3.0) -> None:
    until = time.monotonic() + within_s
    while await asyncio.to_thread(engine_is_busy, port):
        assert time.monotonic() < until, "llama.cpp still works for a client that left"


def test_it_is_recognised_with_its_slots_and_models(no_leaks: Run) -> None:
    async def main() -> None:
        with llama("--parallel", "3") as (port, _):
            async with routed(raw=[entry(port)]) as rig:
                node = (await rig.request("GET", rig.admin_url + "/api/nodes")).json()["nodes"][0]
                assert (node["engine"], node["slots"], node["models"], node["state"]) == ("llamacpp", 3, ["tiny"], "up")
                async with sdk(rig.url) as client:
                    listed = await client.models.list()
                    assert [model.id for model in listed.data] == ["tiny"]

    no_leaks(main)


def test_greedy_text_is_the_text_asked_directly(no_leaks: Run) -> None:
    async def main() -> None:
        with llama() as (port, _):
            direct = sdk(f"http://127.0.0.1:{port}")
            async with routed(raw=[entry(port)]) as rig, sdk(rig.url) as client, direct:
                wanted = await say(direct)
                assert await say(client) == wanted
                text, chunks = await stream(client)
                assert text == wanted
                assert chunks > 10  # token by token, not at the end

    no_leaks(main)


def shape(body: bytes) -> list[Any]:
    """The events of a stream without what differs from one to the next: identity, times, what was cached."""
    events = []
    for line in body.decode().split("\n\n"):
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            event = json.loads(text) | {"id": "", "created": 0}
            events.append(event | {name: sorted(event[name]) for name in ("timings", "usage") if name in event})
        else:
            events.append(text)
    return events


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_under_token_wfq_a_stream_keeps_its_timings_and_is_charged_by_them(no_leaks: Run, path: str) -> None:
    """Asked for usage, llama.cpp would put ``timings`` into a chunk of its own, which a client does not expect."""

    async def main() -> None:
        with llama() as (port, _):
            async with routed(raw=[entry(port)], queue={"policy": "token_wfq"}) as rig:
                said = {"messages": SAY} if path.endswith("chat/completions") else {"prompt": "Hi there"}
                body = {"model": "tiny", **said, "max_tokens": 9, "temperature": 0, "stream": True}
                for _ in range(3):
                    ours, theirs = [
                        await rig.request("POST", url + path, json=body)
                        for url in (rig.url, f"http://127.0.0.1:{port}")
                    ]
                    assert shape(ours.body) == shape(theirs.body)
                    assert b'"timings"' in ours.body
                assert rig.router.gateway._meter.priced == {"usage": 3, "events": 0, "estimate": 0}

    no_leaks(main)


@pytest.mark.parametrize("stream", [True, False])
def test_under_token_wfq_two_answers_cost_two(no_leaks: Run, stream: bool) -> None:
    """llama.cpp reports the usage of one choice."""

    async def main() -> None:
        with llama() as (port, _):
            async with routed(raw=[entry(port)], queue={"policy": "token_wfq"}) as rig:
                body = {"model": "tiny", "messages": SAY, "max_tokens": 9, "ignore_eos": True, "stream": stream}
                found = charges(rig)
                for n in (1, 2):
                    answer = await rig.request("POST", "/v1/chat/completions", json=body | {"n": n})
                    assert answer.status == 200
                assert found[1] - found[0] == 2000 * 9

    no_leaks(main)


def test_forty_streams_at_once_over_two_engines(no_leaks: Run) -> None:
    """More than there are slots: they wait in the router, nobody's text is another's."""

    async def main() -> None:
        with llama("--parallel", "2") as (a, _), llama("--parallel", "2") as (b, _):
            nodes = [entry(a, "a"), entry(b, "b")]
            async with routed(raw=nodes) as rig, sdk(rig.url) as client, sdk(f"http://127.0.0.1:{a}") as direct:
                prompts = [f"say {number} please" for number in range(8)]
                wanted = {prompt: await say(direct, prompt) for prompt in prompts}
                asked = [prompts[number % 8] for number in range(40)]
                answers = await asyncio.gather(*(stream(client, prompt) for prompt in asked))
                assert [text for text, _ in answers] == [wanted[prompt] for prompt in asked]
                described = rig.router.registry.describe()
                assert all(node["connections"]["dials"] > 0 for node in described)  # both had work

    no_leaks(main)


def test_embeddings_are_those_asked_directly(no_leaks: Run) -> None:
    async def main() -> None:
        with llama("--embedding") as (port, _):
            direct = sdk(f"http://127.0.0.1:{port}")
            async with routed(raw=[entry(port)]) as rig, sdk(rig.url) as client, direct:
                texts = ["hello", "some more words"]
                ours = await client.embeddings.create(model="tiny", input=texts, encoding_format="float")
                theirs = await direct.embeddings.create(model="tiny", input=texts, encoding_format="float")
                assert [item.embedding for item in ours.data] == [item.embedding for item in theirs.data]

    no_leaks(main)


def test_the_engine_stops_a_stream_when_its_client_leaves(no_leaks: Run) -> None:
    async def main() -> None:
        with llama("--parallel", "1", "--ctx", "8192") as (port, _):
            async with routed(raw=[entry(port)]) as rig, sdk(rig.url) as client:
                chunks = await client.chat.completions.create(
                    model="tiny", messages=SAY, max_tokens=7000, temperature=0, stream=True
                )
                async for _ in chunks:
                    break
                assert await asyncio.to_thread(engine_is_busy, port) == 1
                await chunks.close()
                await rig.until(lambda: rig.running() == 0)
                await becomes_idle(port)

    no_leaks(main)


def test_a_plain_answers_connection_is_closed_when_its_client_leaves(no_leaks: Run) -> None:
    """More the router can't do: this llama.cpp finishes a plain answer for nobody, also when it is asked directly."""

    async def main() -> None:
        with llama("--parallel", "1", "--ctx", "8192") as (port, _):
            async with routed(raw=[entry(port)]) as rig, sdk(rig.url) as client:
                (node,) = rig.router.registry.nodes()
                task = asyncio.ensure_future(
                    client.chat.completions.create(model="tiny", messages=SAY, max_tokens=3000, temperature=0)
                )
                await rig.until(lambda: rig.running() == 1 and node.pool.open == 1)
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await rig.until(lambda: rig.running() == 0 and node.pool.open == 0)

    no_leaks(main)


def test_it_takes_its_own_key_and_never_the_clients(no_leaks: Run) -> None:
    async def main() -> None:
        with llama("--api-key", "node-secret") as (port, _):
            async with routed(raw=[entry(port, api_key="node-secret")]) as rig, sdk(rig.url, "client-secret") as client:
                assert await say(client, tokens=4)
            async with routed(raw=[entry(port)]) as rig, sdk(rig.url, "node-secret") as client:
                with pytest.raises(openai.APIStatusError):  # the client's key is not passed on
                    await say(client, tokens=4)

    no_leaks(main)


async def state_becomes(rig: Rig, name: str, state: str) -> float:
    def is_so() -> bool:
        return any(node["name"] == name and node["state"] == state for node in rig.router.registry.describe())

    return await rig.until(is_so, f"node {name} {state}")


def test_an_engine_that_is_killed_leaves_and_comes_back_by_itself(no_leaks: Run) -> None:
    async def main() -> None:
        with llama() as (a, process), llama() as (b, _):
            async with routed(raw=[entry(a, "a"), entry(b, "b")]) as rig, sdk(rig.url) as client:
                wanted = await say(client)
                process.send_signal(signal.SIGKILL)
                process.wait()
                for _ in range(6):  # what would have gone there goes elsewhere
                    assert await say(client) == wanted
                assert await state_becomes(rig, "a", "down") < 1.0
                again = launch(a)
                try:
                    assert await state_becomes(rig, "a", "up") < 3.0
                    assert await say(client) == wanted
                finally:
                    again.kill()
                    again.wait()

    no_leaks(main)
