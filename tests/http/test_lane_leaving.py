"""Clients that leave while their request waits or runs, whatever else they have sent behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import Peer
from rig import CHAT, Client, RawNode, Rig, chat_body, raw_answer, routed, silence

Run = Callable[[Any], Any]
WAYS = ("close", "reset", "half-close")
PROMPT_S = 0.5  # 0.2 on an idle machine
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_MORE = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: ".encode()
BEHIND = {
    "nothing": b"",
    "40 requests": (ONE_MORE + b"2\r\n\r\n{}") * 40,
    "40 requests of aiohttp's": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 40,
    "half a body of 900 kB": ONE_MORE + b"900000\r\n\r\n" + b"x" * 450_000,
    "200 kB of garbage": b"\0garbage\n" * 22_000,
}


async def leave(rig: Rig, client: Client, way: str, behind: bytes, count: Callable[[], int]) -> None:
    """Send what is behind, leave, and be gone soon."""
    if behind:
        client.writer.write(behind)
        await asyncio.sleep(0.02)  # it has come
        if way == "half-close":
            async with asyncio.timeout(5):
                await client.writer.drain()
    before = count()
    client.leave(way)
    assert await rig.until(lambda: count() == before - 1, "that the client's request is gone") <= PROMPT_S


@pytest.mark.parametrize("behind", BEHIND)
def test_from_the_queue(no_leaks: Run, behind: str) -> None:
    async def main() -> None:
        async with RawNode(silence, slots=1) as node, routed(raw=[node.entry]) as rig:
            first = await Client.post(rig, chat_body("first"))
            await rig.until(lambda: rig.running() == 1)
            for way in WAYS:
                client = await Client.post(rig, chat_body("leaver"))
                await rig.until(lambda: rig.waiting() == 1)
                await leave(rig, client, way, BEHIND[behind], rig.waiting)
                client.leave("close")
            assert len(node.requests) == 1
            first.leave("close")

    no_leaks(main)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("stream", [False, True])
def test_before_the_first_byte(no_leaks: Run, behind: str, stream: bool) -> None:
    async def main() -> None:
        left: list[Peer] = []

        async def script(peer: Peer, request: bytes) -> None:
            await peer.gone()
            left.append(peer)

        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            for number, way in enumerate(WAYS):
                client = await Client.post(rig, chat_body(stream=stream))
                await rig.until(lambda number=number: len(node.requests) == number + 1)
                await leave(rig, client, way, BEHIND[behind], rig.running)
                assert await rig.until(lambda number=number: len(left) == number + 1, "the node's end") <= PROMPT_S
                client.leave("close")
            assert len(node.requests) == len(WAYS), "nothing of what was behind has begun"

    no_leaks(main)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("kind", ["stream", "plain"])
def test_after_the_first_byte(no_leaks: Run, behind: str, kind: str) -> None:
    async def main() -> None:
        left: list[Peer] = []

        async def script(peer: Peer, request: bytes) -> None:
            plain = raw_answer(b"x" * 1000)[:-500]
            await peer.send(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n" if kind == "stream" else plain)
            await peer.gone()
            left.append(peer)

        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            for number, way in enumerate(WAYS):
                client = await Client.post(rig, chat_body(stream=kind == "stream"))
                await client.head()
                await leave(rig, client, way, BEHIND[behind], rig.running)
                assert await rig.until(lambda number=number: len(left) == number + 1, "the node's end") <= PROMPT_S
                client.leave("close")
            assert len(node.requests) == len(WAYS)

    no_leaks(main)


def test_with_half_a_body(no_leaks: Run) -> None:
    """The queue never hears of it."""

    async def main() -> None:
        async with RawNode(silence) as node, routed(raw=[node.entry]) as rig:
            for way in WAYS:
                for request in (ONE_MORE + b"10\r\n\r\n{", b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Le"):
                    client = await Client.connect(rig)
                    client.writer.write(request)
                    await rig.until(lambda: rig.connected() == 1)
                    await asyncio.sleep(0.02)
                    client.leave(way)
                    assert await rig.until(lambda: rig.connected() == 0) <= PROMPT_S
                    client.leave("close")
            assert rig.router.driver.counters()["received"] == 0

    no_leaks(main)


def test_a_client_that_stays_gets_what_it_sent_behind_answered_next_unless_it_was_too_much(no_leaks: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer, request: bytes) -> None:
            await asyncio.sleep(0.1)
            await peer.send(raw_answer(b"{}"))

        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            client = await Client.post(rig, chat_body())
            client.writer.write(BEHIND["40 requests"] + BEHIND["40 requests of aiohttp's"])
            codes = [(await client.answer()).status for _ in range(81)]
            assert codes == [200, *[400] * 40, *[200] * 40]
            client.leave("close")
            client = await Client.post(rig, chat_body())
            client.writer.write(b"x" * 10)
            await asyncio.sleep(0.02)
            client.writer.write(BEHIND["half a body of 900 kB"])
            status, headers = await client.head()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.rest() == b"{}"
            client.leave("close")
            assert len(node.requests) == 2

    no_leaks(main)
