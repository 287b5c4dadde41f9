"""Clients that leave, in every state of their request and by every way there is to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import Peer
from rig import Client, RawNode, Rig, chat_body, routed, silence

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
WAYS = ("close", "reset", "half-close")
PROMPT_S = 0.05
STUCK = MockSettings(name="stuck", slots=1, ttft_ms=60_000)


async def gone(rig: Rig, count: Callable[[], int]) -> None:
    assert await rig.until(lambda: count() == 0, "that the client's request is gone") <= PROMPT_S


def cancelled(rig: Rig) -> int:
    return rig.router.meter.outcomes(rig.router.driver.counters())["cancelled"]


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_the_queue_is_gone_at_once_and_reaches_no_node(no_leaks: Run, way: str) -> None:
    async def main() -> None:
        async with routed([STUCK]) as rig:
            first = await Client.post(rig, chat_body("first"))
            await rig.until(lambda: rig.running() == 1)
            leaver = await Client.post(rig, chat_body("leaver"))
            await rig.until(lambda: rig.waiting() == 1)
            leaver.leave(way)
            await gone(rig, rig.waiting)
            first.leave("close")
            await gone(rig, rig.running)
            await rig.until(lambda: rig.mocks[0].running == 0)
            assert rig.started() == ["first"]
            assert cancelled(rig) == 2
            leaver.leave("close")

    no_leaks(main)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_before_the_first_byte_stops_its_node(no_leaks: Run, way: str, stream: bool) -> None:
    async def main() -> None:
        stopped = asyncio.Event()

        async def script(peer: Peer, request: bytes) -> None:
            await peer.gone()
            stopped.set()

        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            client = await Client.post(rig, chat_body(stream=stream))
            await rig.until(lambda: len(node.requests) == 1)
            client.leave(way)
            await gone(rig, rig.running)
            async with asyncio.timeout(0.1):
                await stopped.wait()
            assert cancelled(rig) == 1
            client.leave("close")

    no_leaks(main)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_an_answer_under_way_stops_its_node(no_leaks: Run, way: str, kind: str) -> None:
    async def main() -> None:
        stopped = asyncio.Event()

        async def script(peer: Peer, request: bytes) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            await peer.send(head.encode() + b"9\r\ndata: 1\n\n\r\n")
            await peer.gone()
            stopped.set()

        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            assert await client.chunk() == b"data: 1\n\n"
            client.leave(way)
            await gone(rig, rig.running)
            async with asyncio.timeout(0.1):
                await stopped.wait()
            assert cancelled(rig) == 1
            client.leave("close")

    no_leaks(main)


def test_a_client_that_leaves_while_its_body_is_read_was_never_there(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([STUCK]) as rig:
            client = await Client.connect(rig)
            client.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            await asyncio.sleep(0.02)
            client.leave("close")
            await asyncio.sleep(0.02)
            assert rig.router.driver.counters()["received"] == 0

    no_leaks(main)


def test_leaving_one_place_lets_the_next_move_up(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(silence, slots=1) as node, routed(raw=[node.entry]) as rig:
            clients = []
            for number in range(3):
                clients.append(await Client.post(rig, chat_body(f"p{number}")))
                await rig.until(lambda number=number: rig.running() + rig.waiting() == number + 1)
            clients[1].leave("reset")
            await rig.until(lambda: rig.waiting() == 1)
            clients[0].leave("close")
            await rig.until(lambda: len(node.requests) == 2)
            assert b"p2" in node.requests[1]
            clients[2].leave("close")

    no_leaks(main)


@pytest.mark.slow
def test_a_thousand_queued_clients_that_leave_are_gone_promptly(no_leaks: Run) -> None:
    """200 a second, by turns in the three ways; how long each stays in the queue is measured."""
    count, rate = 1000, 200

    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = {"max_waiting": 2000, "max_waiting_per_user": 0}
        async with RawNode(silence, slots=1) as node, routed(raw=[node.entry], queue=queue) as rig:
            first = await Client.post(rig, chat_body("first"))
            await rig.until(lambda: rig.running() == 1)
            clients = [await Client.post(rig, chat_body(f"leaver {number}")) for number in range(count)]
            await rig.until(lambda: rig.waiting() == count)
            begun, stayed = loop.time(), []
            for number, client in enumerate(clients):
                await asyncio.sleep(begun + number / rate - loop.time())
                before, left_at = rig.waiting(), loop.time()
                client.leave(WAYS[number % 3])
                while rig.waiting() == before:
                    await asyncio.sleep(0.0005)
                    assert loop.time() - left_at < 1.0
                stayed.append(loop.time() - left_at)
            assert sorted(stayed)[int(count * 0.99)] <= PROMPT_S
            first.leave("close")
            await rig.until(lambda: rig.running() == 0)
            assert len(node.requests) == 1
            assert cancelled(rig) == count + 1
            for client in clients:
                client.leave("close")

    no_leaks(main)
