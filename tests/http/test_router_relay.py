"""What passes through the router: bytes as they are, when they are there, and only the headers that may."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import Peer
from rig import Client, RawNode, answering, chat_body, raw_answer, routed

Run = Callable[[Any], Any]
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "500 Oops"])
def test_a_plain_answer_arrives_byte_for_byte_with_its_length(no_leaks: Run, size: int, status: str) -> None:
    async def main() -> None:
        body = noise(size)
        async with RawNode(answering(raw_answer(body, status=status))) as node, routed(raw=[node.entry]) as rig:
            for _ in range(2):  # the second on kept connections
                answer = await rig.chat()
                assert answer.status == int(status[:3])
                assert answer.body == body
                assert answer.headers["Content-Length"] == str(size)

    no_leaks(main)


def test_a_body_arrives_at_the_node_byte_for_byte(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            for size in (0, 1, 100_000, 5_000_000):
                body = b' {"model" : "demo",\t"x": "%b", "model_": 1.50 }\r\n' % (b"y" * size)
                client = await Client.post(rig, body, path="/v1/completions")
                assert (await client.answer()).status == 200
                client.leave("close")
                assert node.requests[-1].endswith(b"\r\n\r\n" + body)

    no_leaks(main)


def test_a_chunked_body_is_given_to_the_node_with_its_length(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            client = await Client.connect(rig)
            body = chat_body("in pieces")
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.writer.write(head + chunked(body[:7]) + chunked(body[7:]) + b"0\r\n\r\n")
            assert (await client.answer()).status == 200
            assert b"Content-Length: %d\r\n" % len(body) in node.requests[0]
            assert node.requests[0].endswith(b"\r\n\r\n" + body)
            client.leave("close")

    no_leaks(main)


def test_each_piece_of_a_stream_arrives_before_the_next_is_sent(no_leaks: Run) -> None:
    async def main() -> None:
        pieces = [
            b"data: one\n\n",
            b": a comment\n\n",
            b"data: hal",
            b"f\r\n\r\n",
            noise(5000),
            b"\n",
            b"data: [DONE]\n\n",
        ]
        arrived = asyncio.Semaphore(0)

        async def script(peer: Peer, request: bytes) -> None:
            await peer.send(SSE_HEAD)
            for piece in pieces:
                await peer.send(chunked(piece))
                async with asyncio.timeout(2):
                    await arrived.acquire()
            await peer.send(b"0\r\n\r\n")

        async with RawNode(script) as node, routed(raw=[node.entry]) as rig:
            client = await Client.post(rig, chat_body(stream=True))
            status, headers = await client.head()
            assert (status, headers["content-type"]) == (200, "text/event-stream")
            assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
            for piece in pieces:
                got = await client.chunk()
                while len(got) < len(piece):
                    got += await client.chunk()
                assert got == piece
                arrived.release()
            assert await client.chunk() == b""
            client.leave("close")

    no_leaks(main)


def test_only_listed_headers_pass_in_either_direction(no_leaks: Run) -> None:
    async def main() -> None:
        spoken = raw_answer(
            b"{}",
            "openai-processing-ms: 12",
            "Cache-Control: no-store",
            "Set-Cookie: a=b",
            "Server: secret/1",
            "X-Internal: http://10.0.0.1",
            "Retry-After: 7",
        )
        async with RawNode(answering(spoken)) as node, routed(raw=[node.entry | {"api_key": "the-nodes-own"}]) as rig:
            passed = [
                "Accept: text/x",
                "Content-Type: application/json",
                "OpenAI-Organization: org",
                "User-Agent: tester/1",
                "X-Request-Id: my-id.1",
                "anthropic-version: 2023-06-01",
                "traceparent: 00-1-2-03",
            ]
            dropped = [
                "Accept-Encoding: gzip",
                "Authorization: Bearer the-clients",
                "Cookie: c=d",
                "TE: trailers",
                "X-Forwarded-For: 1.2.3.4",
                "X-User-Id: alice",
                "x_y: underscore",
            ]
            path = "/v1/chat/completions?beta=true&x=%2F"
            client = await Client.post(rig, chat_body(), *passed[:1], *passed[2:], *dropped, path=path)
            answer = await client.answer()
            client.leave("close")
            first, *head = node.requests[0].split(b"\r\n\r\n")[0].decode().split("\r\n")
            assert first == f"POST {path} HTTP/1.1"
            ours = [
                f"Host: 127.0.0.1:{node.port}",
                "Connection: keep-alive",
                "Authorization: Bearer the-nodes-own",
                "Accept-Encoding: identity",
                f"Content-Length: {len(chat_body())}",
            ]
            assert sorted(head) == sorted(passed + ours)
            assert answer.headers["x-request-id"] == "my-id.1"
            assert answer.headers["openai-processing-ms"] == "12"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["server"] == "fairlead"
            assert not {"set-cookie", "x-internal", "retry-after"} & set(answer.headers)

    no_leaks(main)


def test_a_reader_that_stops_pauses_its_node_and_is_cut_in_the_end(no_leaks: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sent, stopped = 0, asyncio.Event()

        async def script(peer: Peer, request: bytes) -> None:
            nonlocal sent
            await peer.send(SSE_HEAD)
            piece = chunked(noise(65536))
            while peer.ended is None and sent < 256 << 20:
                if peer.transport.get_write_buffer_size() < 65536:
                    peer.transport.write(piece)
                    sent += len(piece)
                else:
                    await asyncio.sleep(0.001)
                if not sent % 16:
                    await asyncio.sleep(0)
            stopped.set()

        async with RawNode(script) as node, routed(raw=[node.entry], timeouts={"write_stall": "600ms"}) as rig:
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            client.writer.transport.pause_reading()
            begun = loop.time()
            await asyncio.sleep(0.4)
            held = sent
            assert held < 24 << 20, "most of it is the kernel's between the sockets"
            await asyncio.sleep(0.1)
            assert sent == held, "the node is paused"
            await rig.until(lambda: rig.running() == 0)
            assert 0.5 <= loop.time() - begun <= 1.2
            async with asyncio.timeout(1):
                await stopped.wait()
            client.leave("close")

    no_leaks(main)


def test_a_slow_reader_gets_everything_in_order(no_leaks: Run) -> None:
    async def main() -> None:
        body = noise(4 << 20)

        async def script(peer: Peer, request: bytes) -> None:
            await peer.send(SSE_HEAD)
            for start in range(0, len(body), 100_000):
                await peer.send(chunked(body[start : start + 100_000]))
            await peer.send(b"0\r\n\r\n")

        async with RawNode(script) as node, routed(raw=[node.entry], timeouts={"write_stall": "500ms"}) as rig:
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            got = bytearray()
            while piece := await client.chunk():
                got += piece
                if len(got) < 1 << 20:
                    await asyncio.sleep(0.03)
            assert got == body
            client.leave("close")

    no_leaks(main)
