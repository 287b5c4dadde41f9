"""How long a client's connection may do nothing, or too little, and that nothing is left of those that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import Peer
from rig import CHAT, WAIT_S, Client, RawNode, Rig, answering, chat_body, raw_answer, routed

from fairlead.clock import now_ns
from fairlead.errors import ApiError
from fairlead.listener import Inference, Limits, Listener

Run = Callable[[Any], Any]
LIMIT_S = 0.4
LATE_S = 1.5  # on a busy machine
LONG = {"head": "1h", "body": "1h", "keep_alive": "1h", "write_stall": "1h"}
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
CHUNKED = HEAD.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
LINE = f"GET {CHAT}\r\n".encode()  # HTTP/0.9
ASKED = {
    "lane": HEAD.replace(b"100", b"2") + b"{}",
    "aiohttp": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
}


def only(limit: str) -> dict[str, str]:
    return LONG | {limit: f"{int(LIMIT_S * 1000)}ms"}


async def ends(client: Client, since_s: float, trickle: bytes) -> bytes:
    """What comes until the router closes, in time; meanwhile a byte of the trickle now and then."""
    loop = asyncio.get_running_loop()
    reading = asyncio.ensure_future(client.rest())
    for at in range(len(trickle)):
        if reading.done():
            break
        client.writer.write(trickle[at : at + 1])
        await asyncio.wait([reading], timeout=0.02)
    rest = await reading
    assert LIMIT_S - 0.05 <= loop.time() - since_s <= LIMIT_S + LATE_S
    client.leave("close")
    return rest


# (what is limited, what the client has sent before, what it sends byte by byte, the status of the answer)
SLOW = {
    "says nothing": ("head", b"", b"", 0),
    "sends half a head": ("head", HEAD[:40], b"", 408),
    "sends a head byte by byte": ("head", b"", HEAD[:-1], 408),
    "sends aiohttp a head byte by byte": ("head", b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 99, 408),
    "speaks HTTP/0.9": ("head", LINE, b"", 408),
    "sends blank lines": ("keep_alive", b"", b"\r\n" * 500, 0),
    "sends no body": ("body", HEAD, b"", 408),
    "sends a body byte by byte": ("body", HEAD, b"x" * 99, 408),
    "sends chunks byte by byte": ("body", CHUNKED, b"1\r\nx\r\n" * 100, 408),
}


@pytest.mark.parametrize("what", SLOW)
def test_who_is_too_slow_is_told_so_and_closed(no_leaks: Run, what: str) -> None:
    limit, before, trickle, status = SLOW[what]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry], timeouts=only(limit)) as rig:
            client = await Client.connect(rig)
            client.writer.write(before)
            rest = await ends(client, loop.time(), trickle)
            if status:
                assert rest.startswith(b"HTTP/1.1 408 ") and b'"code":"request_timeout"' in rest
                assert rest.count(b"HTTP/1.1 ") == 1
            else:
                assert rest == b""
            assert not node.requests

    no_leaks(main)


@pytest.mark.parametrize("door", ["lane", "aiohttp"])
def test_an_idle_connection_is_closed_without_a_word(no_leaks: Run, door: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeouts = only("keep_alive")
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry], timeouts=timeouts) as rig:
            client = await Client.connect(rig)
            for _ in range(3):
                client.writer.write(ASKED[door])
                assert (await client.answer()).status in (200, 400)
                await asyncio.sleep(LIMIT_S / 2)
            since_s = loop.time() - LIMIT_S / 2
            assert await ends(client, since_s, b"") == b""

    no_leaks(main)


def test_a_body_for_aiohttp_has_its_time_too(no_leaks: Run) -> None:
    """It answers before, and waits for the rest as long as it does; what ends is the connection."""

    async def main() -> None:
        async with (
            RawNode(answering(raw_answer(b"{}"))) as node,
            routed(raw=[node.entry], timeouts=only("body")) as rig,
        ):
            client = await Client.connect(rig)
            client.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            rest = await client.rest()
            assert rest.startswith(b"HTTP/1.1 200 ") and rest.count(b"HTTP/1.1 ") == 1
            await rig.until(lambda: rig.connected() == 0)
            client.leave("close")

    no_leaks(main)


def test_a_defect_that_shows_on_one_connection_stops_no_clock(no_leaks: Run, caplog: pytest.LogCaptureFixture) -> None:
    def reject(error: ApiError, request_id: str, path: str) -> None:
        raise ValueError("a defect")

    async def handler(request: Any) -> Any:
        raise AssertionError("nobody asks anything")

    async def main() -> None:
        limit_ns = int(LIMIT_S * 1e9)
        limits = Limits(
            connections=10,
            head_ns=limit_ns,
            body_ns=limit_ns,
            keep_alive_ns=limit_ns,
            stall_ns=limit_ns,
            head_bytes=1000,
            body_bytes=1000,
        )
        listener = Listener(asyncio.get_running_loop(), handler, limits, now_ns, Inference(reject=reject))
        await listener.start("127.0.0.1", 0)
        assert listener.address is not None
        clients = [Client(*await asyncio.open_connection(*listener.address)) for _ in range(5)]
        for client in clients:
            client.writer.write(HEAD[:40])
        for client in clients:
            assert await client.rest() == b""
            client.leave("close")
        assert caplog.text.count("a connection's time could not be looked at") == 5
        await listener.close()
        listener.check()

    no_leaks(main)


@pytest.mark.parametrize("door", ASKED)
def test_a_client_that_asks_and_asks_and_never_reads_is_cut(no_leaks: Run, door: str) -> None:
    """It is not read either, so that what it was answered can't fill the memory."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeouts = only("write_stall")
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry], timeouts=timeouts) as rig:
            client = await Client.connect(rig)
            client.writer.transport.pause_reading()
            piece, sent = ASKED[door] * 500, 0
            begun = loop.time()
            while not client.writer.transport.is_closing():
                assert loop.time() - begun < WAIT_S, "it is not cut"
                if client.writer.transport.get_write_buffer_size() < 1 << 16:
                    client.writer.write(piece)
                    sent += len(piece)
                await asyncio.sleep(0.001)
            # What fits into the sockets between us, and a little more.
            assert sent < 32 << 20
            await rig.until(lambda: rig.connected() == 0)
            client.leave("close")

    no_leaks(main)


async def come_and_go(rig: Rig, number: int) -> None:
    """One connection, of one kind or the other."""
    client = await Client.connect(rig)
    kind = number % 6
    if kind == 1:
        client.writer.write(HEAD[: number % len(HEAD)])
    elif kind in (2, 3):
        client.send_post(chat_body())
        assert kind == 3 or (await client.answer()).status == 200
    elif kind == 4:
        client.writer.write(ASKED["aiohttp"])
        assert (await client.answer()).status == 200
    elif kind == 5:
        client.writer.write(b"garbage\r\n")
        assert (await client.answer()).status == 400
    client.leave(("close", "reset", "half-close")[number % 3])
    if number % 3 == 2:
        await client.rest()
        client.leave("close")


@pytest.mark.slow
def test_ten_thousand_connections_leave_nothing(no_leaks: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer, request: bytes) -> None:
            await asyncio.sleep(0.001)
            if peer.ended is None:
                await peer.send(raw_answer(b"{}"))

        async with RawNode(script, slots=50) as node, routed(raw=[node.entry], limits={"connections": 300}) as rig:
            listener = rig.router._public
            for first in range(0, 10_000, 100):
                await asyncio.gather(*(come_and_go(rig, number) for number in range(first, first + 100)))
                if first % 1000 == 0:
                    await rig.until(lambda: rig.connected() == 0, "that all are gone")
                    listener.check()
            await rig.until(lambda: rig.connected() == 0, "that all are gone")
            assert len(listener._alarms) == 0 and len(listener._free) == 300

    no_leaks(main)
