"""Nobody gets another's answer, whatever nodes send that nobody asked for and whenever they close."""

from __future__ import annotations

import asyncio
import re
import select
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
from raw_server import Peer
from rig import Client, RawNode, Rig, Script, chat_body, raw_answer, routed

Run = Callable[[Any], Any]
REQUESTS = {"dev": 1_500, "ci": 25_000}  # with each seed, on either loop
CLIENTS = 40
NONCE = re.compile(rb"nonce-\d+")
EVIL = raw_answer(b"nonce-666666666")
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def is_idle(peer: Peer) -> bool:
    """No request has come, nor is one under way. What a node sends after the next request was sent is that one's
    answer: no program can tell."""
    if peer.ended is not None or len(peer.received) != peer.taken:
        return False
    poller = select.poll()
    poller.register(peer.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return not poller.poll(0)


async def unasked(peer: Peer, *segments: bytes, after_s: float) -> None:
    for segment in segments:
        await asyncio.sleep(after_s)
        if is_idle(peer):
            peer.transport.write(segment)


def misbehaving(random: Random) -> Script:
    """A node that answers with the nonce it was asked with, and mostly leaves it at that."""

    async def script(peer: Peer, request: bytes) -> None:
        found = NONCE.search(request)
        assert found is not None
        nonce = found[0]
        answer = raw_answer(nonce)
        if b'"stream":true' in request:
            answer = SSE_HEAD + chunk(nonce[:4]) + chunk(nonce[4:]) + b"0\r\n\r\n"
        what = random.random()
        if what > 0.3:
            await asyncio.sleep(0)
            peer.transport.write(answer)
        elif what > 0.25:
            await peer.send(answer + b"x")
        elif what > 0.2:
            await peer.send(answer + EVIL)
        elif what > 0.15:
            peer.transport.write(answer)
            await unasked(peer, EVIL, after_s=random.choice((0, 0.001, 0.01)))
        elif what > 0.1:
            peer.transport.write(answer)
            await unasked(peer, EVIL[:40], EVIL[40:], after_s=0.003)
        elif what > 0.07:
            await peer.send(answer[:-4], gap_s=0.001)
            peer.close()
        elif what > 0.04:
            await peer.send(answer)
            peer.close()
        elif what > 0.02:
            peer.reset()
        else:
            await peer.send(*(answer[at : at + 30] for at in range(0, len(answer), 30)), gap_s=0)

    async def forgiving(peer: Peer, request: bytes) -> None:
        if peer.ended is None:
            await script(peer, request)

    return forgiving


class Asking:
    """Clients that count what they got."""

    def __init__(self, rig: Rig, count: int) -> None:
        self._rig = rig
        self._left = list(range(count))
        self.got: Counter[str] = Counter()

    async def client(self, random: Random) -> None:
        """One after the other, sometimes three at once, on one connection as long as it lasts."""
        client = None
        while self._left:
            if client is None:
                client = await Client.connect(self._rig)
            nonces = [self._left.pop() for _ in range(min(random.choice((1, 1, 3)), len(self._left)))]
            for nonce in nonces:
                client.send_post(chat_body(f"nonce-{nonce}", stream=nonce % 3 == 0))
            for nonce in nonces:
                if not await self.answered(client, b"nonce-%d" % nonce):
                    client.leave("close")
                    client = None
                    break
        if client is not None:
            client.leave("close")

    async def answered(self, client: Client, nonce: bytes) -> bool:
        """Whether the connection is good for another."""
        try:
            answer = await client.answer()
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):  # its node has broken off
            self.got["cut"] += 1
            return False
        if answer.status == 200:
            assert answer.body == nonce, f"{nonce!r} was asked, {answer.body!r} answered"
        assert not NONCE.search(answer.body) or answer.body == nonce
        self.got[str(answer.status)] += 1
        return answer.headers.get("connection") != "close"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_every_answer_is_for_the_one_who_asked(no_leaks: Run, request: pytest.FixtureRequest, seed: int) -> None:
    count = REQUESTS[request.config.getoption("--profile")]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            scripts = [misbehaving(Random(f"node {number} {seed}")) for number in range(4)]
            nodes = [
                await stack.enter_async_context(RawNode(script, name=f"n{number}"))
                for number, script in enumerate(scripts)
            ]
            rig = await stack.enter_async_context(
                routed(raw=[node.entry for node in nodes], queue={"max_waiting": 500})
            )
            asking = Asking(rig, count)
            await asyncio.gather(*(asking.client(Random(f"client {number} {seed}")) for number in range(CLIENTS)))
            assert asking.got["200"] > count * 0.8, asking.got
            assert asking.got["502"] > 0 and asking.got["cut"] > 0, asking.got
            assert sum(len(node.requests) for node in nodes) >= asking.got["200"]

    no_leaks(main)
