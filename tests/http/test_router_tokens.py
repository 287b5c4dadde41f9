"""token_wfq over HTTP: what a request is charged, and that its client can't tell that anybody counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from raw_server import Peer
from rig import CHAT, MODEL, Client, RawNode, Rig, answering, charges, chat_body, raw_answer, routed, silence

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
QUICK = MockSettings(name="one", slots=4, ttft_ms=1, token_ms=1, batch_ms=0, tokens=12)
BY_TOKEN = {"policy": "token_wfq"}
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


def priced(rig: Rig) -> dict[str, int]:
    return rig.router.gateway._meter.priced


async def taught(rig: Rig, path: str = CHAT) -> None:
    """The router has seen a stream of the node that it did not ask about, so that it knows what asking brings."""
    said = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    body = orjson.dumps({"model": MODEL, **said, "stream": True, "max_tokens": 1})
    assert (await rig.request("POST", path, data=body)).status == 200


def tokens(fresh: int, output: int) -> int:
    """At the default prices, in thousandths."""
    return 1000 * fresh + 2000 * output


def timeless(body: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b'"created":0', body)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
def test_a_stream_is_the_node_s_own_but_charged_by_its_usage(no_leaks: Run, path: str, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with routed([QUICK], queue=BY_TOKEN) as rig:
            await taught(rig, path)
            found = charges(rig)
            said = {"messages": [{"role": "user", "content": "x" * 40}]} if path == CHAT else {"prompt": "x" * 40}
            body = orjson.dumps({"model": MODEL, **said, "stream": True, "n": 2, "max_tokens": 9, **options})
            direct = rig.router.registry.nodes()[0].config.url + path
            ours, theirs = [
                await rig.request("POST", url, data=body, headers={"X-Request-Id": "same"}) for url in (path, direct)
            ]
            assert timeless(ours.body) == timeless(theirs.body)
            assert b"usage" not in ours.body
            assert found == [tokens(10, 18)]
            assert priced(rig) == {"usage": 1, "events": 1, "estimate": 0}

    no_leaks(main)


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, nulls=True), replace(QUICK, per_event=5)])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_a_client_sees_what_the_engine_would_send_without_a_router(
    no_leaks: Run, settings: MockSettings, options: dict[str, Any]
) -> None:
    """Also of an engine whose events have "usage":null anyway, as SGLang's do."""

    async def main() -> None:
        async with routed([settings], queue=BY_TOKEN) as rig:
            body = chat_body("x" * 40, stream=True, **options)
            direct = rig.router.registry.nodes()[0].config.url + CHAT
            for _ in range(3):
                ours, theirs = [
                    await rig.request("POST", url, data=body, headers={"X-Request-Id": "same"})
                    for url in (CHAT, direct)
                ]
                assert timeless(ours.body) == timeless(theirs.body)
            assert priced(rig)["events"] == (0 if options else 1)

    no_leaks(main)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_node_that_must_not_be_asked_is_not(no_leaks: Run, wanted: bool) -> None:
    async def script(peer: Peer, request: bytes) -> None:
        await peer.send(SSE_HEAD + 3 * TOKEN)
        peer.close()

    async def main() -> None:
        async with RawNode(script) as node, routed(raw=[node.entry | {"include_usage": wanted}], queue=BY_TOKEN) as rig:
            for _ in range(2):
                assert (await rig.chat(stream=True)).status == 200
            assert [b"include_usage" in request for request in node.requests] == [False, wanted]
            assert priced(rig) == {"usage": 0, "events": 2, "estimate": 0}

    no_leaks(main)


def test_an_engine_that_comes_back_may_be_another(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], queue=BY_TOKEN) as rig:
            (node,) = rig.router.registry.nodes()
            await taught(rig)
            assert node.habits.of(CHAT, MODEL).asks
            rig.router.registry.report_connect_failure(node)
            await rig.until(lambda: node.up, "that the node is well again")
            assert not node.habits.of(CHAT, MODEL).asks

    no_leaks(main)


def test_an_estimate_is_no_more_than_the_models_of_all_nodes_hold(no_leaks: Run) -> None:
    async def main() -> None:
        small, large = replace(QUICK, kv_tokens=15), replace(QUICK, name="two", kv_tokens=20)
        async with RawNode(silence) as node:
            for mocks, raw, estimate in (
                ([small], [], tokens(10, 5)),
                ([small, large], [], tokens(10, 10)),
                ([small], [node.entry], tokens(10, 16)),  # this one does not tell
            ):
                async with routed(mocks, raw=raw, queue=BY_TOKEN) as rig:
                    client = await Client.post(rig, chat_body("x" * 40, stream=True, max_tokens=1000))
                    await rig.until(lambda rig=rig: rig.running() == 1)
                    (call,) = rig.router.gateway._calls()
                    assert call.cost == estimate
                    client.leave("close")
                    await rig.until(lambda rig=rig: not rig.running())

    no_leaks(main)


def test_a_client_that_asks_sees_what_the_node_says(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], queue=BY_TOKEN) as rig:
            found = charges(rig)
            body = chat_body("x" * 40, stream=True, stream_options={"include_usage": True})
            direct = rig.router.registry.nodes()[0].config.url + CHAT
            ours, theirs = [
                await rig.request("POST", url, data=body, headers={"X-Request-Id": "same"}) for url in (CHAT, direct)
            ]
            assert timeless(ours.body) == timeless(theirs.body)
            assert b'"usage":null' in ours.body
            assert b'"completion_tokens":12' in ours.body
            assert found == [tokens(10, 12)]

    no_leaks(main)


def test_plain_answers_and_embeddings_are_charged_by_usage(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], queue=BY_TOKEN | {"prices": {"input": 0.5}}) as rig:
            found = charges(rig)
            assert (await rig.chat("x" * 40, max_tokens=5)).json()["usage"]["completion_tokens"] == 5
            body = orjson.dumps({"model": MODEL, "input": ["x" * 40, "y" * 20]})
            assert (await rig.request("POST", "/v1/embeddings", data=body)).status == 200
            assert found == [500 * 10 + 2000 * 5, 500 * 15]
            text = (await rig.request("GET", rig.admin_url + "/metrics")).body
            assert b'fairlead_requests_priced_total{by="usage"} 2.0\n' in text

    no_leaks(main)


def test_a_node_without_usage_is_charged_by_events_or_by_the_estimate(no_leaks: Run) -> None:
    asked: list[bool] = []

    async def script(peer: Peer, request: bytes) -> None:
        if b'"stream":true' not in request:
            await peer.send(raw_answer(b'{"choices":[]}'))
            return
        asked.append(b'{"stream_options":{"include_usage":true},"model"' in request)
        await peer.send(SSE_HEAD + 7 * TOKEN + b"data: [DONE]\n\n")
        peer.close()

    async def main() -> None:
        async with RawNode(script) as node, routed(raw=[node.entry], queue=BY_TOKEN) as rig:
            found = charges(rig)
            for _ in range(2):
                answer = await rig.chat("x" * 40, stream=True)
                assert answer.body == 7 * TOKEN + b"data: [DONE]\n\n"
            assert asked == [False, True]
            await rig.chat("x" * 40, max_tokens=3)
            assert found == [tokens(10, 7), tokens(10, 7), tokens(10, 3)]
            assert priced(rig) == {"usage": 0, "events": 2, "estimate": 1}

    no_leaks(main)


def test_an_error_of_the_node_costs_the_input(no_leaks: Run) -> None:
    async def main() -> None:
        refusal = answering(raw_answer(b"{}", status="400 Bad Request"))
        async with RawNode(refusal) as node, routed(raw=[node.entry], queue=BY_TOKEN) as rig:
            found = charges(rig)
            assert (await rig.chat("x" * 40)).status == 400
            assert found == [tokens(10, 0)]

    no_leaks(main)


@pytest.mark.parametrize(("sent", "cost"), [(b"", 0), (SSE_HEAD + 3 * TOKEN, tokens(10, 3))])
def test_a_node_that_dies_is_paid_for_what_it_delivered(no_leaks: Run, sent: bytes, cost: int) -> None:
    async def script(peer: Peer, request: bytes) -> None:
        await peer.send(sent.replace(b"Connection: close", b"Content-Length: 100000") or b"")
        peer.close()

    async def main() -> None:
        async with RawNode(script) as node, routed(raw=[node.entry], queue=BY_TOKEN) as rig:
            found = charges(rig)
            client = await Client.post(rig, chat_body("x" * 40, stream=True))
            await client.head()
            await rig.until(lambda: bool(found))
            assert found == [cost]
            client.leave("close")

    no_leaks(main)


def test_who_leaves_before_the_first_byte_pays_the_input_of_a_stream_and_else_the_estimate(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(silence) as node, routed(raw=[node.entry], queue=BY_TOKEN) as rig:
            found = charges(rig)
            for stream in (True, False):
                client = await Client.post(rig, chat_body("x" * 40, stream=stream, max_tokens=6))
                await rig.until(lambda stream=stream: len(node.requests) == (1 if stream else 2))
                client.leave("close")
                await rig.until(lambda: not rig.running())
            assert found == [tokens(10, 0), tokens(10, 6)]

    no_leaks(main)


def test_who_streams_nearly_all_of_each_answer_and_leaves_pays_for_it(no_leaks: Run) -> None:
    async def main() -> None:
        settings = MockSettings(name="one", slots=1, ttft_ms=1, token_ms=1, batch_ms=0)
        async with routed([settings], queue=BY_TOKEN) as rig:
            found = charges(rig)
            for _ in range(3):
                client = await Client.post(rig, chat_body("x" * 40, stream=True, max_tokens=100))
                await client.head()
                got = b""
                while got.count(b'"content"') < 99:
                    got += await client.chunk()
                assert got.count(b'"content"') >= 99
                client.leave("close")
                await rig.until(lambda: not rig.running())
            assert len(found) == 3
            assert min(found) >= tokens(10, 99)
            assert max(found) <= tokens(10, 100)

    no_leaks(main)


def test_a_user_of_long_answers_waits_for_a_user_of_short_ones(no_leaks: Run) -> None:
    """A's answers are ten times as long as B's, so B has more turns once the node has told."""

    async def main() -> None:
        settings = MockSettings(name="one", slots=1, ttft_ms=1, token_ms=1, batch_ms=0)
        async with routed([settings], queue=BY_TOKEN) as rig:
            tasks = [rig.later("other", user="o", max_tokens=60)]
            await rig.until(lambda: rig.running() == 1)
            for prompt in ("A1", "A2", "A3", "B1", "B2", "B3"):
                tasks.append(rig.later(prompt, user=prompt[0], max_tokens=50 if prompt[0] == "A" else 5))
                await rig.until(lambda: rig.waiting() == len(tasks) - 1)
            await asyncio.gather(*tasks)
            assert rig.started() == ["other", "A1", "B1", "B2", "B3", "A2", "A3"]

    no_leaks(main)


def test_under_the_other_policies_nothing_is_asked_or_priced(no_leaks: Run) -> None:
    async def script(peer: Peer, request: bytes) -> None:
        await peer.send(SSE_HEAD + 2 * TOKEN.replace(b"}\n\n", b',"usage":null}\n\n'))
        peer.close()

    async def main() -> None:
        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            found = charges(rig)
            answer = await rig.chat(stream=True, n=3)
            assert answer.body.count(b'"usage":null') == 2
            assert b"stream_options" not in node.requests[0]
            assert found == [3]
            assert sum(priced(rig).values()) == 0

    no_leaks(main)
