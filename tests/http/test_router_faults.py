"""Nodes that answer nonsense, half, nothing or not at all: one request suffers, nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from raw_server import Peer
from rig import Client, RawNode, Script, answering, chat_body, configured, raw_answer, routed, silence

from fairlead.mocknode import MockNode, MockSettings, serving

Run = Callable[[Any], Any]
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
GZIP = raw_answer(b"\x1f\x8b", "Content-Encoding: gzip")
QUICK = {"first_byte": "200ms", "idle": "200ms", "total": "400ms"}


def then_close(*segments: bytes) -> Script:
    async def script(peer: Peer, request: bytes) -> None:
        await peer.send(*segments)
        peer.close()

    return script


def beside_a_good_one(fault: Script) -> Script:
    """The fault for those who ask for it; the others get their answer, slowly enough to be there meanwhile."""

    async def script(peer: Peer, request: bytes) -> None:
        if b"fault" in request:
            await fault(peer, request)
        else:
            await asyncio.sleep(0.3)
            await peer.send(raw_answer(b'{"good": true}'))

    return script


BEFORE_THE_FIRST_BYTE = [
    ("garbage", then_close(b"SSH-2.0-OpenSSH\r\n"), 502, "upstream_error"),
    ("nothing", then_close(), 502, "upstream_error"),
    ("half a head", then_close(b"HTTP/1.1 200 OK\r\nContent-Le"), 502, "upstream_error"),
    ("a head and no body", then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), 502, "upstream_error"),
    ("an event stream without events", then_close(SSE_HEAD), 502, "upstream_error"),
    ("a redirect", answering(REDIRECT), 502, "upstream_error"),
    ("a protocol switch", answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), 502, "upstream_error"),
    ("two lengths", answering(raw_answer(b"{}", "Content-Length: 3")), 502, "upstream_error"),
    ("a coding nobody asked for", answering(GZIP), 502, "upstream_error"),
    ("silence", silence, 504, "first_byte_timeout"),
]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [row[1:] for row in BEFORE_THE_FIRST_BYTE],
    ids=[row[0] for row in BEFORE_THE_FIRST_BYTE],
)
def test_a_fault_before_the_first_byte_is_a_clean_error_for_the_one_request(
    no_leaks: Run, fault: Script, status: int, code: str
) -> None:
    async def main() -> None:
        timeouts = {"first_byte": "200ms"}
        async with RawNode(beside_a_good_one(fault)) as node, routed(raw=[node.entry], timeouts=timeouts) as rig:
            good = rig.later("good")
            await rig.until(lambda: len(node.requests) == 1)
            answer = await rig.chat("fault", stream=True)
            assert (answer.status, answer.code) == (status, code)
            assert code != "first_byte_timeout" or "its limit is 200 ms (timeouts.first_byte)" in answer.body.decode()
            assert str(node.port) not in answer.body.decode(), "nothing of the node's address"
            assert (await good).json() == {"good": True}
            assert (await rig.chat("good again")).status == 200

    no_leaks(main)


def test_a_plain_answer_is_bounded_by_the_total_time_only(no_leaks: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with RawNode(silence) as node, routed(raw=[node.entry], timeouts=QUICK) as rig:
            for headers, limit_s in (({}, 0.4), ({"X-Request-Timeout-Ms": "100"}, 0.1)):
                begun = loop.time()
                answer = await rig.chat(headers=headers)
                assert (answer.status, answer.code) == (504, "total_timeout")
                assert f"its limit is {limit_s * 1000:.0f} ms (X-Request-Timeout-Ms, " in answer.body.decode()
                assert limit_s <= loop.time() - begun <= limit_s + 0.06

    no_leaks(main)


HALVES = [
    ("closed by length", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", True),
    ("closed in chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", True),
    ("broken chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", False),
    ("silent", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", False),
]


@pytest.mark.parametrize(("segment", "close"), [row[1:] for row in HALVES], ids=[row[0] for row in HALVES])
def test_half_a_plain_answer_is_cut_and_never_looks_whole(no_leaks: Run, segment: bytes, close: bool) -> None:
    async def main() -> None:
        script = then_close(segment) if close else answering(segment)
        async with RawNode(script) as node, routed(raw=[node.entry], timeouts=QUICK) as rig:
            client = await Client.post(rig, chat_body())
            assert (await client.head())[0] == 200
            with pytest.raises(ConnectionResetError):
                await client.rest()
            client.leave("close")

    no_leaks(main)


STREAM_FAULTS = [
    ("closed", [b"data: 1\n\n"], True, "upstream_error", b""),
    ("closed in the middle of an event", [b"data: 1\n\ndata: {"], True, "upstream_error", b"\n\n"),
    ("broken", [b"data: 1\n\n", b""], True, "upstream_error", b""),
    ("silent", [b"data: 1\n\n"], False, "idle_timeout", b""),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    ("events", "close", "code", "gap"), [row[1:] for row in STREAM_FAULTS], ids=[row[0] for row in STREAM_FAULTS]
)
def test_a_stream_that_breaks_ends_with_one_error_event_and_no_done(
    no_leaks: Run, events: list[bytes], close: bool, code: str, gap: bytes, path: str
) -> None:
    async def main() -> None:
        segments = [SSE_HEAD, *(b"%x\r\n%b\r\n" % (len(event), event) if event else b"-1\r\n" for event in events)]
        script = then_close(*segments) if close else answering(*segments)
        async with RawNode(script) as node, routed(raw=[node.entry], timeouts=QUICK | {"total": "10s"}) as rig:
            client = await Client.post(rig, chat_body(stream=True), path=path)
            assert (await client.head())[0] == 200
            assert await client.chunk() == b"".join(events)
            last = await client.chunk()
            assert await client.rest() == b"", "no end of the chunks"
            name = b"event: error\n" if path == "/v1/messages" else b""
            assert last.startswith(gap + name + b"data: {") and last.endswith(b"}\n\n")
            assert orjson.loads(last.removeprefix(gap + name + b"data: "))["error"]["code"] == code
            assert code != "idle_timeout" or b"its limit is 200 ms (timeouts.idle)" in last
            client.leave("close")

    no_leaks(main)


def test_a_stream_that_flows_is_bounded_by_the_total_time_only(no_leaks: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer, request: bytes) -> None:
            await peer.send(SSE_HEAD)
            for segment in [b"9\r\ndata: 1\n\n\r\n"] * 8 + [b"0\r\n\r\n"]:
                await asyncio.sleep(0.1)
                if peer.ended is None:
                    await peer.send(segment)

        async with RawNode(script) as node, routed(raw=[node.entry], timeouts=QUICK | {"total": "10s"}) as rig:
            whole = await rig.chat(stream=True)
            assert whole.body == b"data: 1\n\n" * 8
            client = await Client.post(rig, chat_body(stream=True), "X-Request-Timeout-Ms: 350")
            cut = await client.rest()
            assert b"total_timeout" in cut
            client.leave("close")

    no_leaks(main)


@pytest.mark.parametrize("status", ["400 Bad", "404 Not Found", "422 Odd", "429 Many", "500 Broken", "503 Busy"])
def test_a_nodes_own_error_passes_as_it_is(no_leaks: Run, status: str) -> None:
    async def main() -> None:
        body = b'{"error": "as the node says it"}'
        async with RawNode(answering(raw_answer(body, status=status))) as node, routed(raw=[node.entry]) as rig:
            answer = await rig.chat()
            assert (answer.status, answer.body) == (int(status[:3]), body)
            told = {"Retry-After", "retry-after-ms"} & set(answer.headers)
            assert len(told) == (2 if answer.status in (429, 503) else 0)

    no_leaks(main)


async def kill(node: RawNode) -> None:
    """The port refuses from now on, and what was open is reset."""
    node._server.close()
    for peer in node.peers:
        peer.transport.abort()
    await asyncio.sleep(0)


@pytest.mark.parametrize(("nodes", "killed"), [(2, 1), (4, 2)])
def test_requests_to_a_node_that_died_go_elsewhere(no_leaks: Run, nodes: int, killed: int) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            served = [
                await stack.enter_async_context(RawNode(answering(raw_answer(b"{}")), name=f"n{i}"))
                for i in range(nodes)
            ]
            health = {"period": "10s", "timeout": "1s"}  # the health probe does not help
            async with routed(raw=[node.entry for node in served], health=health) as rig:
                for node in served[:killed]:
                    await kill(node)
                answers = await asyncio.gather(*(rig.chat(str(i)) for i in range(20)))
                assert {answer.status for answer in answers} == {200}
                counters = rig.router.driver.counters()
                assert counters["requeued"] >= killed and counters["failed"] == 0

    no_leaks(main)


@contextlib.contextmanager
def unreachable(port: int) -> Iterator[None]:
    """A port that nobody serves any more, with a full backlog: Linux drops what is dialled, without a word."""
    with contextlib.ExitStack() as stack:
        plug = stack.enter_context(socket.socket())
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plug.bind(("127.0.0.1", port))
        plug.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


def test_a_request_that_could_not_be_connected_goes_where_its_model_is_by_then(no_leaks: Run) -> None:
    """While a node is being dialled, another takes up one of its two models, which then have a pool each."""

    async def main() -> None:
        health = {"period": "10s", "timeout": "1s"}
        first, second = MockSettings(name="a", models=("demo", "other")), MockSettings(name="b", models=("demo",))
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(AsyncExitStack())
            port = await served.enter_async_context(serving(MockNode(first)))
            raw = [{"name": "a", "url": f"http://127.0.0.1:{port}", "slots": 4}]
            async with routed(raw=raw, health=health, timeouts={"connect": "500ms"}) as rig:
                await served.aclose()
                stack.enter_context(unreachable(port))
                answer = rig.later()
                await rig.until(lambda: rig.running() == 1)
                before = rig.router.registry.pool_of("demo")
                url = f"http://127.0.0.1:{await stack.enter_async_context(serving(MockNode(second)))}"
                node = rig.router.registry.add(configured([{"name": "b", "url": url}]).nodes[0])
                await node.probed.wait()
                assert rig.router.registry.pool_of("demo") != before
                assert rig.running() == 1, "it is still being dialled"
                assert (await answer).status == 200
                assert rig.router.driver.counters()["requeued"] == 1
                await rig.router.registry.remove("b")

    no_leaks(main)


def test_three_nodes_out_of_reach_are_enough(no_leaks: Run) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            served = [await stack.enter_async_context(RawNode(silence, name=f"n{i}")) for i in range(4)]
            health = {"period": "10s", "timeout": "1s"}
            async with routed(raw=[node.entry for node in served], health=health) as rig:
                for node in served:
                    await kill(node)
                answer = await rig.chat()
                assert (answer.status, answer.code) == (502, "upstream_error")
                assert rig.router.driver.counters()["requeued"] == 2

    no_leaks(main)


def test_a_request_that_may_not_wait_does_not_wait_for_a_node_either(no_leaks: Run) -> None:
    async def main() -> None:
        health = {"period": "10s", "timeout": "1s"}
        async with RawNode(silence) as node, routed(raw=[node.entry], health=health) as rig:
            await kill(node)
            answer = await rig.chat(headers={"X-Queue-Timeout-Ms": "0"})
            assert (answer.status, answer.code) == (503, "no_healthy_node")
            assert rig.router.driver.counters()["requeued"] == 1

    no_leaks(main)


def test_without_a_node_left_a_request_waits_for_one_and_is_told_in_the_end(no_leaks: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with RawNode(silence) as node, routed(raw=[node.entry], queue={"no_node_wait": "300ms"}) as rig:
            await kill(node)
            begun = loop.time()
            answer = await rig.chat()
            assert (answer.status, answer.code) == (503, "no_healthy_node")
            assert 1 <= int(answer.headers["Retry-After"]) <= 59
            assert 0.3 <= loop.time() - begun <= 0.4
            never = await rig.chat(headers={"X-Queue-Timeout-Ms": "0"})
            assert (never.status, never.code) == (503, "no_healthy_node")
            ready = await rig.request("GET", "/health/ready")
            assert (ready.status, ready.json()) == (503, {"status": "no usable node"})
            assert (await rig.request("GET", "/health/live")).status == 200

    no_leaks(main)
