"""The registry over loopback: recognising, watching, losing and regaining nodes; models and pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from rig import CHAT, RawNode, Rig, answering, configured, raw_answer, routed

from fairlead.app import Router
from fairlead.mocknode import MockNode, MockSettings, serving

Run = Callable[[Any], Any]


def described(rig: Rig, name: str) -> dict[str, Any]:
    return next(node for node in rig.router.registry.describe() if node["name"] == name)


async def pinned(rig: Rig, mock: int, kv: float | None) -> None:
    rig.mocks[mock].kv = kv
    await rig.until(lambda: rig.router.registry.describe()[mock]["gpu_load"] == kv)


def test_a_simulated_node_is_recognised_as_one(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([MockSettings(name="a", slots=3)]) as rig:
            node = described(rig, "a")
            assert (node["engine"], node["state"], node["slots"], node["models"]) == ("mock", "up", 3, ["demo"])

    no_leaks(main)


def test_slots_are_those_the_node_tells(no_leaks: Run) -> None:
    async def main() -> None:
        async with serving(MockNode(MockSettings(slots=7))) as port:
            entry = {"name": "a", "url": f"http://127.0.0.1:{port}"}
            async with routed(raw=[entry]) as rig:
                assert described(rig, "a")["slots"] == 7
            async with routed(raw=[entry | {"slots": 2}]) as rig:
                assert described(rig, "a")["slots"] == 2

    no_leaks(main)


def test_a_connection_is_kept_for_each_slot_and_at_least_four(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([MockSettings(name="a", slots=7, ttft_ms=50, tokens=1)]) as rig:
            for _ in range(2):
                await asyncio.gather(*(rig.chat() for _ in range(7)))
            assert described(rig, "a")["connections"] == {"open": 7, "idle": 7, "dials": 7}
            node = rig.router.registry.nodes()[0]
            node.set_slots(1)
            await asyncio.gather(*(rig.chat() for _ in range(7)))
            await rig.until(lambda: described(rig, "a")["connections"] == {"open": 4, "idle": 4, "dials": 7})

    no_leaks(main)


def test_load_is_polled_and_own_requests_are_not_others(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([MockSettings(name="a", slots=4, ttft_ms=400, tokens=1)]) as rig:
            port = int(described(rig, "a")["url"].rsplit(":", 1)[1])
            body = orjson.dumps({"model": "demo", "prompt": "x"})
            elsewhere = asyncio.ensure_future(rig.request("POST", f"http://127.0.0.1:{port}/v1/completions", data=body))
            own = rig.later("mine")
            await rig.until(lambda: described(rig, "a")["others"] == 1, "that the stranger's request is seen")
            assert described(rig, "a")["in_flight"] == 1
            await asyncio.gather(elsewhere, own)
            await rig.until(lambda: described(rig, "a")["others"] == 0)
            await pinned(rig, 0, 0.75)

    no_leaks(main)


def test_reports_older_than_three_periods_are_forgotten(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([MockSettings(name="a")]) as rig:
            await pinned(rig, 0, 0.9)
            rig.mocks[0].mute_metrics = True
            await rig.until(lambda: described(rig, "a")["gpu_load"] is None, "that old reports are forgotten")
            assert described(rig, "a")["state"] == "up"  # no report is no reason to give it nothing
            assert (await rig.chat()).status == 200

    no_leaks(main)


def test_old_reports_are_forgotten_also_while_health_fails(no_leaks: Run) -> None:
    class Ill(MockNode):
        ill = False

        async def _health(self, request: web.Request) -> web.Response:
            return web.Response(status=500) if self.ill else await super()._health(request)

    async def main() -> None:
        mock = Ill(MockSettings(name="ill"))
        mock.kv = 0.9
        probing = {"period": "50ms", "timeout": "500ms", "unhealthy_after": 100}
        async with serving(mock) as port:
            entry = {"name": "ill", "url": f"http://127.0.0.1:{port}"}
            async with routed(raw=[entry], health=probing) as rig:
                await rig.until(lambda: described(rig, "ill")["gpu_load"] == 0.9)
                mock.ill = True
                await rig.until(lambda: described(rig, "ill")["gpu_load"] is None, "that old reports are forgotten")
                assert described(rig, "ill")["state"] == "up"
                assert "500" in described(rig, "ill")["error"]
                mock.ill = False
                await rig.until(lambda: not described(rig, "ill")["error"], "that a trouble that is over is not told")

    no_leaks(main)


def test_a_node_that_dies_is_down_at_once_and_comes_back_by_itself(no_leaks: Run) -> None:
    async def main() -> None:
        mock = MockNode(MockSettings(name="a"))
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(mock))
            entry = {"name": "a", "url": f"http://127.0.0.1:{port}"}
            async with routed([MockSettings(name="b")], raw=[entry]) as rig:
                await stack.aclose()
                assert await rig.until(lambda: described(rig, "a")["state"] == "down") < 1.0
                for _ in range(4):
                    assert (await rig.chat()).status == 200
                async with serving(MockNode(MockSettings(name="a")), port=port):
                    assert await rig.until(lambda: described(rig, "a")["state"] == "up") < 1.0

    no_leaks(main)


Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def odd_node(**answers: Answer) -> AsyncIterator[dict[str, Any]]:
    """A node that answers /health and /v1/models as the test says; its entry in the configuration."""
    app = web.Application()
    app.router.add_get("/health", answers["health"])
    app.router.add_get("/v1/models", answers["models"])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield {"name": "odd", "url": f"http://127.0.0.1:{runner.addresses[0][1]}", "engine": "vllm"}
    finally:
        await runner.cleanup()


async def lists_demo(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "demo", "owned_by": "x"}]})


def test_one_slow_probe_is_not_death(no_leaks: Run) -> None:
    async def main() -> None:
        asked = 0

        async def health(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            if asked == 3:
                await asyncio.sleep(0.4)
            return web.Response()

        probing = {"period": "20ms", "timeout": "100ms", "unhealthy_after": 2}
        async with odd_node(health=health, models=lists_demo) as entry, routed(raw=[entry], health=probing) as rig:
            while asked < 8:
                assert described(rig, "odd")["state"] == "up"
                await asyncio.sleep(0.005)

    no_leaks(main)


def test_a_node_that_is_loading_is_not_used_until_it_is_ready(no_leaks: Run) -> None:
    async def main() -> None:
        ready = False

        async def health(_: web.Request) -> web.Response:
            return web.Response(status=200 if ready else 503)

        async def models(request: web.Request) -> web.Response:
            return await lists_demo(request) if ready else web.Response(status=503)

        async with odd_node(health=health, models=models) as entry, routed(raw=[entry]) as rig:
            before = await rig.chat()
            assert (before.status, before.code) == (503, "model_loading")
            ready = True
            await rig.until(lambda: described(rig, "odd")["state"] == "up")
            assert described(rig, "odd")["models"] == ["demo"]
            ready = False
            await rig.until(lambda: described(rig, "odd")["state"] == "down")

    no_leaks(main)


def test_models_are_the_union_and_each_goes_to_nodes_that_serve_it(no_leaks: Run) -> None:
    async def main() -> None:
        nodes = [MockSettings(name="a", models=("demo", "small")), MockSettings(name="b", models=("demo", "large"))]
        async with routed(nodes) as rig:
            listed = (await rig.request("GET", "/v1/models")).json()["data"]
            assert sorted(entry["id"] for entry in listed) == ["demo", "large", "small"]
            for model, mock in (("small", 0), ("large", 1)):
                assert (await rig.chat(f"for {model}", model=model)).status == 200
                assert rig.started(mock)[-1] == f"for {model}"
            registry = rig.router.registry
            assert len({registry.pool_of(model) for model in ("demo", "small", "large")}) == 3

    no_leaks(main)


def test_models_of_the_same_nodes_share_a_pool(no_leaks: Run) -> None:
    async def main() -> None:
        nodes = [MockSettings(name=name, models=("demo", "lora-1", "lora-2")) for name in "ab"]
        async with routed(nodes) as rig:
            registry = rig.router.registry
            assert len({registry.pool_of(model) for model in ("demo", "lora-1", "lora-2")}) == 1

    no_leaks(main)


def test_waiting_requests_follow_their_model_when_another_node_takes_it_up(no_leaks: Run) -> None:
    """Two models share one node and one pool; a second node offers one of them: its waiting requests go there."""

    async def main() -> None:
        busy = MockSettings(name="a", models=("demo", "other"), slots=1, ttft_ms=3000, tokens=1)
        async with routed([busy], raw=[]) as rig:
            registry = rig.router.registry
            first = rig.later("busy")
            await rig.until(lambda: rig.running() == 1)
            waits = [rig.later("a", model="other"), rig.later("b", model="other")]
            stays = rig.later("c")
            await rig.until(lambda: rig.waiting() == 3)
            together = registry.pool_of("other")
            assert together == registry.pool_of("demo")
            async with serving(MockNode(MockSettings(name="b", models=("other",)))) as port:
                config = configured([{"name": "b", "url": f"http://127.0.0.1:{port}"}])
                node = registry.add(config.nodes[0])
                await node.probed.wait()
                assert registry.pool_of("other") != registry.pool_of("demo")
                answers = await asyncio.gather(*waits)
                assert [answer.status for answer in answers] == [200, 200]
                assert rig.waiting() == 1
                await registry.remove("b")
            for task in (first, stays):
                task.cancel()
            await asyncio.gather(first, stays, return_exceptions=True)

    no_leaks(main)


def test_a_node_is_removed_with_its_connections_and_its_name_can_come_again(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([MockSettings(name="a")]) as rig, serving(MockNode(MockSettings(name="b"))) as port:
            config = configured([{"name": "b", "url": f"http://127.0.0.1:{port}"}])
            registry = rig.router.registry
            handles = set()
            for _ in range(3):
                node = registry.add(config.nodes[0])
                await node.probed.wait()
                handles.add(node.handle)
                await asyncio.gather(*(rig.chat() for _ in range(4)))
                await registry.remove("b")
            assert len(handles) == 3

    no_leaks(main)


def test_redirects_are_not_followed_and_garbage_lists_nothing(no_leaks: Run) -> None:
    async def main() -> None:
        target = RawNode(answering(raw_answer(b"{}")), name="target")
        async with target:
            for answer in (
                raw_answer(b"", f"Location: {target.url}/v1/models", status="302 Found"),
                raw_answer(b"not json"),
                raw_answer(b'{"data":[{"id":"demo"}]}' + b" " * (1 << 20)),
                b"garbage\r\n\r\n",
                b"",
            ):
                await lists_nothing(answer)
            assert target.requests == []

    no_leaks(main)


async def lists_nothing(answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.transport.abort() if not answer else writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    router = Router(configured([{"name": "odd", "url": f"http://127.0.0.1:{port}"}]))
    await router.start()
    (node,) = router.registry.describe()
    assert node["state"] == "down"
    assert node["models"] == []
    assert node["error"]
    await router.stop(0)
    server.close()
    await server.wait_closed()


def test_the_mock_node_is_an_engine_from_outside(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([MockSettings(name="a", slots=2, ttft_ms=5, token_ms=1, tokens=6)]) as rig:
            plain = (await rig.chat("same words", max_tokens=4)).json()
            again = (await rig.chat("same words", max_tokens=4)).json()
            assert plain["choices"][0]["message"] == again["choices"][0]["message"]
            assert plain["choices"][0]["message"]["content"].startswith("simulated")
            assert plain["usage"]["completion_tokens"] == 4
            assert plain["system_fingerprint"] == "simulated"
            streamed = (await rig.chat("same words", stream=True, stream_options={"include_usage": True})).body
            events = [line[6:] for line in streamed.split(b"\n\n") if line]
            assert events[-1] == b"[DONE]"
            chunks = [orjson.loads(event) for event in events[:-1]]
            assert chunks[-1]["usage"]["completion_tokens"] == 6
            assert chunks[-1]["choices"] == []
            assert len([chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"]]) == 6
            body = orjson.dumps({"model": "demo", "input": ["a", "b"]})
            vectors = (await rig.request("POST", "/v1/embeddings", data=body)).json()["data"]
            assert [vector["index"] for vector in vectors] == [0, 1]
            counted = await rig.request("POST", "/tokenize", data=orjson.dumps({"model": "demo", "prompt": "x" * 40}))
            assert counted.json()["count"] == 10
            assert (await rig.request("POST", CHAT, data=b'{"model":"none"}')).status == 404

    no_leaks(main)
