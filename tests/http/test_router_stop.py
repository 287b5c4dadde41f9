"""How the router stops: what waits is sent away, what runs gets its time, and then nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import Peer
from rig import Client, RawNode, chat_body, configured, routed, silence

from fairlead.app import Router
from fairlead.clock import now_ns
from fairlead.listener import Limits, Listener

Run = Callable[[Any], Any]
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = Limits(
    connections=100,
    head_ns=10**10,
    body_ns=10**10,
    keep_alive_ns=6 * 10**10,
    stall_ns=6 * 10**10,
    head_bytes=32768,
    body_bytes=0,
)
EVENT = b"9\r\ndata: 1\n\n\r\n"


def test_what_waits_is_sent_away_and_a_stream_may_end(no_leaks: Run) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer, request: bytes) -> None:
            await peer.send(SSE_HEAD + EVENT)
            await go_on.wait()
            await peer.send(EVENT + b"0\r\n\r\n")

        async with RawNode(script, slots=1) as node, routed(raw=[node.entry]) as rig:
            runs = await Client.post(rig, chat_body(stream=True))
            await runs.head()
            assert await runs.chunk() == b"data: 1\n\n"
            waits = await Client.post(rig, chat_body())
            await rig.until(lambda: rig.waiting() == 1)
            stopping = asyncio.ensure_future(rig.router.stop(5.0))
            refused = await waits.answer()
            assert (refused.status, refused.code) == (503, "draining")
            assert 1 <= int(refused.headers["retry-after"]) <= 59
            with pytest.raises(ConnectionRefusedError):
                await Client.connect(rig)
            assert (await rig.request("GET", rig.admin_url + "/health/ready")).status == 503
            assert rig.router.meter.outcomes(rig.router.driver.counters())["drained"] == 1
            go_on.set()
            assert await runs.chunk() == b"data: 1\n\n"
            assert await runs.chunk() == b""
            await stopping
            runs.leave("close")
            waits.leave("close")

    no_leaks(main)


def test_what_still_runs_after_the_grace_is_cut(no_leaks: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer, request: bytes) -> None:
            if b"stream" in request:
                await peer.send(SSE_HEAD + EVENT)
            await silence(peer, request)

        async with RawNode(script) as node:
            router = Router(configured([node.entry]), seed=1)
            await router.start()
            host, port = router.addresses["public"]

            async def client(body: bytes) -> Client:
                made = Client(*await asyncio.open_connection(host, port))
                made.send_post(body)
                return made

            streams, plain = await client(chat_body(stream=True)), await client(chat_body())
            await streams.head()
            await asyncio.sleep(0.05)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await router.stop(0.2)
            assert 0.2 <= loop.time() - begun <= 1.0
            rest = await streams.rest()
            assert b'"draining"' in rest and b"[DONE]" not in rest and not rest.endswith(b"0\r\n\r\n")
            answer = await plain.answer()
            assert (answer.status, answer.code) == (503, "draining")
            for each in (streams, plain):
                each.leave("close")

    no_leaks(main)


def test_idle_and_stalled_clients_do_not_hold_it_up(no_leaks: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer, request: bytes) -> None:
            await peer.send(SSE_HEAD)
            while peer.ended is None:
                if peer.transport.get_write_buffer_size() < 65536:
                    peer.transport.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await asyncio.sleep(0.0005)

        async with RawNode(script) as node:
            router = Router(configured([node.entry]), seed=1)
            await router.start()
            host, port = router.addresses["public"]
            idle = Client(*await asyncio.open_connection(host, port))
            stalled = Client(*await asyncio.open_connection(host, port))
            stalled.send_post(chat_body(stream=True))
            await stalled.head()
            stalled.writer.transport.pause_reading()
            await asyncio.sleep(0.3)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await router.stop(0.0)
            assert loop.time() - begun <= 2.5
            await router.stop(0.0)  # a second signal
            for client in (idle, stalled):
                client.leave("close")

    no_leaks(main)


def test_a_port_that_is_taken_leaves_nothing_behind(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(silence) as node:
            taken = configured([node.entry], listen=f"127.0.0.1:{node.port}")
            with pytest.raises(OSError, match="in use"):
                await Router(taken).start()

    no_leaks(main)


# asyncio's own server loses what it had accepted when it is closed before the connection is made.
@pytest.mark.parametrize("no_leaks", ["uvloop"], indirect=True)
def test_connections_that_arrive_while_it_closes_are_closed_too(no_leaks: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def handler(request: Any) -> Any:
            raise AssertionError("nobody asks anything")

        for turns in (0, 1, 3):
            listener = Listener(loop, handler, LIMITS, now_ns)
            await listener.start("127.0.0.1", 0)
            assert listener.address is not None
            coming = [asyncio.ensure_future(asyncio.open_connection(*listener.address)) for _ in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(3):
                await listener.close()
            for result in await asyncio.gather(*coming, return_exceptions=True):
                if not isinstance(result, Exception):
                    client = Client(*result)
                    with contextlib.suppress(ConnectionResetError):
                        assert await client.rest() == b""
                    client.leave("close")

    no_leaks(main)
