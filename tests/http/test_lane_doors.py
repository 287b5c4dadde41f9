"""One port, two doors: what one connection asks of both in turn is answered in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import Peer
from rig import CHAT, WAIT_S, Answer, Client, RawNode, Rig, answering, chat_body, raw_answer, routed

Run = Callable[[Any], Any]
TARGETS = {"lane": ("POST", CHAT, chat_body()), "aiohttp": ("GET", "/v1/models", b"")}


def echo_nonce(body: bytes) -> bytes:
    """What the node says to a chat request: the prompt it was sent."""
    return body[body.index(b'"content":"') + 11 :].partition(b'"')[0]


async def echo(peer: Peer, request: bytes) -> None:
    """The earlier in a row, the slower."""
    nonce = echo_nonce(request)
    await asyncio.sleep({b"p0": 0.05, b"p1": 0.02}.get(nonce, 0))
    await peer.send(raw_answer(nonce))


def ask(method: str, path: str, body: bytes = b"", *lines: str, version: str = "1.1") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *lines, *length, "", ""]).encode() + body


def post(nonce: str, *lines: str) -> bytes:
    return ask("POST", CHAT, chat_body(nonce), *lines)


MIX = (
    (ask("GET", "/v1/models"), b'"demo"'),
    (post("p0"), b"p0"),
    (ask("GET", "/health"), b'{"status":"ok"}'),
    (post("p1"), b"p1"),
    (post("p2"), b"p2"),
    (ask("DELETE", "/v1/models"), b"method_not_allowed"),
    (ask("GET", "/health/live"), b'{"status":"ok"}'),
    (post("p3"), b"p3"),
)


@pytest.mark.parametrize("way", ["one write", "cut", "byte by byte"])
def test_both_doors_in_one_segment_are_answered_in_order(no_leaks: Run, way: str) -> None:
    stream = b"".join(request for request, _ in MIX)
    cuts = {
        "one write": [[stream]],
        "cut": [[stream[:at], stream[at:]] for at in range(1, len(stream), 13)],
        "byte by byte": [[stream[at : at + 1] for at in range(len(stream))]],
    }[way]

    async def main() -> None:
        async with RawNode(echo, slots=100) as node, routed(raw=[node.entry]) as rig:

            async def one(pieces: list[bytes]) -> None:
                client = await Client.connect(rig)
                await asyncio.sleep(0.01)
                for piece in pieces:
                    client.writer.write(piece)
                    await asyncio.sleep(0.002 if len(pieces) == 2 else 0)
                for _, expected in MIX:
                    assert expected in (await client.answer()).body
                client.leave("close")

            await asyncio.gather(*(one(pieces) for pieces in cuts))
            assert len(node.requests) == 4 * len(cuts)

    no_leaks(main)


KEPT = {"1.1": {"": True, "keep-alive": True, "close": False}, "1.0": {"": False, "keep-alive": True, "close": False}}


@pytest.mark.parametrize("door", TARGETS)
@pytest.mark.parametrize("version", KEPT)
def test_a_connection_is_kept_as_its_client_asks(no_leaks: Run, door: str, version: str) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            method, path, body = TARGETS[door]
            for asked, kept in KEPT[version].items():
                lines = [f"Connection: {asked}"] if asked else []
                client = await Client.connect(rig)
                client.writer.write(ask(method, path, body, *lines, version=version) * (2 if kept else 1))
                for _ in range(2 if kept else 1):
                    answer = await client.answer()
                    assert answer.status == 200
                    if version == "1.0" and kept:
                        assert answer.headers["connection"] == "keep-alive"
                    if version == "1.1":
                        assert (answer.headers.get("connection") == "close") is not kept
                if not kept:
                    assert await client.rest() == b""
                client.leave("close")

    no_leaks(main)


def test_methods_that_a_path_does_not_take_are_refused_and_the_connection_lives_on(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            client = await Client.connect(rig)
            for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH"):
                for path, allowed in ((CHAT, "POST"), ("/health", "GET, HEAD"), ("/v1/models", "GET, HEAD")):
                    client.writer.write(ask(method, path))
                    status, headers = await client.head()
                    if method != "HEAD":
                        await client.reader.readexactly(int(headers["content-length"]))
                    if method in allowed:
                        assert status == 200
                    else:
                        assert (status, headers["allow"]) == (405, allowed)
            client.writer.write(ask("OPTIONS", "*") + post("last"))
            assert (await client.answer()).status == 404
            assert (await client.answer()).status == 200
            client.leave("close")
            assert len(node.requests) == 1

    no_leaks(main)


def test_who_asks_before_sending_gets_an_interim_answer_only_where_the_body_is_wanted(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(echo) as node, routed(raw=[node.entry], limits={"body": "1MiB"}) as rig:
            expect, body = "Expect: 100-continue", chat_body("p9")
            head = ask("POST", CHAT, b"", expect, f"Content-Length: {len(body)}")
            client = await Client.connect(rig)
            for pieces in ([head, body], [head + body[:5], body[5:]], [head + body]):
                for number, piece in enumerate(pieces):
                    client.writer.write(piece)
                    if len(pieces) == 2 and piece is head:
                        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                    elif number == 0:
                        await asyncio.sleep(0.02)
                assert (await client.answer()).body == b"p9"
            client.leave("close")
            refused = [
                (ask("POST", CHAT, b"", expect, "Content-Length: 10000000000"), 413),
                (ask("POST", CHAT, b"", expect, "Content-Length: 9", "Content-Encoding: gzip"), 415),
                (ask("POST", "/nope", b"", expect, "Content-Length: 9"), 404),
                (ask("PUT", CHAT, b"", expect, "Content-Length: 9"), 405),
            ]
            for request, status in refused:
                client = await Client.connect(rig)
                client.writer.write(request)
                assert (await client.answer()).status == status
                assert await client.rest() == b""
                client.leave("close")

    no_leaks(main)


@pytest.mark.parametrize("protocol", ["websocket", "tcp", "h2c"])
def test_nobody_changes_protocols(no_leaks: Run, protocol: str) -> None:
    """Also where aiohttp answers before it has the body: what follows is a request to it, not bytes of the protocol."""

    async def main() -> None:
        async with RawNode(echo) as node, routed(raw=[node.entry]) as rig:
            upgrade = ("Connection: Upgrade", f"Upgrade: {protocol}")
            client = await Client.connect(rig)
            for method, path in (("GET", "/v1/models"), ("POST", CHAT)):
                body = chat_body("p9")
                request = ask(method, path, body, *upgrade)
                client.writer.write(request[: -len(body)])
                await asyncio.sleep(0.05)
                client.writer.write(body)
                assert (await client.answer()).status == 200
                client.writer.write(ask("GET", "/health", b"", *upgrade) + ask("GET", "/health"))
                for _ in range(2):
                    assert (await client.answer()).body == b'{"status":"ok"}'
            client.leave("close")

    no_leaks(main)


async def flood(client: Client, size: int, piece: bytes) -> None:
    """Send that much, or until the router has had enough."""
    with contextlib.suppress(ConnectionError):
        for _ in range(size // len(piece)):
            client.writer.write(piece)
            await client.writer.drain()


@pytest.mark.parametrize("door", ["lane", "aiohttp", "aiohttp, taken"])
def test_an_early_answer_is_the_last_and_what_follows_is_no_request(no_leaks: Run, door: str) -> None:
    """50 MB of body that look like requests, behind a head that was answered at once."""
    size = 50_000_000
    method, path, status = {
        "lane": ("POST", CHAT, 413),
        "aiohttp": ("POST", "/nope", 404),
        "aiohttp, taken": ("GET", "/health", 200),
    }[door]

    async def main() -> None:
        async with RawNode(echo) as node, routed(raw=[node.entry], limits={"body": "1MiB"}) as rig:
            client = await Client.connect(rig)
            client.writer.write(ask(method, path, b"", f"Content-Length: {size}"))
            sending = asyncio.ensure_future(flood(client, size, post("p9") * 100))
            answers = bytearray()
            async with asyncio.timeout(WAIT_S):
                while data := await rest_of(client):
                    answers += data
                await rig.until(lambda: rig.connected() == 0, "that the connection is closed")
            assert answers.count(b"HTTP/1.1 ") == 1 and answers.startswith(b"HTTP/1.1 %d " % status)
            assert not node.requests
            client.leave("reset")
            await sending

    no_leaks(main)


async def rest_of(client: Client) -> bytes:
    try:
        return await client.reader.read(65536)
    except ConnectionError:
        return b""


async def slowly(rig: Rig, request: bytes) -> Answer:
    client = await Client.connect(rig)
    for at in range(len(request)):
        client.writer.write(request[at : at + 1])
        await asyncio.sleep(0)
    answer = await client.answer()
    client.leave("close")
    return answer


def test_many_bytewise_clients_of_both_doors_at_once(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(echo, slots=100) as node, routed(raw=[node.entry]) as rig:
            wanted = [(post(f"n{number}"), b"n%d" % number) for number in range(30)]
            wanted += [(ask("GET", "/health"), b'{"status":"ok"}')] * 30
            answers = await asyncio.gather(*(slowly(rig, request) for request, _ in wanted))
            assert [answer.body for answer in answers] == [body for _, body in wanted]

    no_leaks(main)
