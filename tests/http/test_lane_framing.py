"""What is no request, or could be read as two different ones, on raw sockets and cut in every way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from framing_rows import BODIES, HEADS, TAKEN, Refused, Taken
from framing_rows import CHAT as BODY
from rig import CHAT, Answer, Client, RawNode, Rig, answering, raw_answer, routed

Run = Callable[[Any], Any]
DOORS = {"lane": f"POST {CHAT}".encode(), "aiohttp": b"GET /v1/models", "aiohttp, no such path": b"POST /nope"}
AT_ONCE = 64  # connections
CUTS_MAX = 150  # of one row; beyond, they are spread over it
BYTEWISE_MAX = 500  # bytes of a row that is also sent byte by byte
CLOSED_WITHIN_S = 1.0
SECOND = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
NEVER_FORWARDED = re.compile(
    rb"(?mi)^(transfer[-_]encoding|content_length|upgrade|http2-settings|authorization|x-forwarded-for|x-real-ip"
    rb"|x-router-id|x-\d+|x|expect):"
)


def cuts(stream: bytes) -> Iterable[list[bytes]]:
    """In one write, in two cut at every place, and byte by byte."""
    yield [stream]
    for at in range(1, len(stream), max(len(stream) // CUTS_MAX, 1)):
        yield [stream[:at], stream[at:]]
    if len(stream) <= BYTEWISE_MAX:
        yield [stream[at : at + 1] for at in range(len(stream))]


async def exchange(rig: Rig, pieces: list[bytes], count: int, closes: bool) -> tuple[list[Answer], float]:
    """The first answers; if the router is to close, how long after them it did."""
    loop = asyncio.get_running_loop()
    client = await Client.connect(rig)
    await asyncio.sleep(0.005)  # it is accepted
    reading = asyncio.ensure_future(answers(client, count))
    for piece in pieces:
        if client.reader.at_eof():
            break
        client.writer.write(piece)
        await asyncio.sleep(0.002 if len(pieces) == 2 else 0)
    try:
        found = await reading
        answered = loop.time()
        if closes:
            assert await client.rest() == b"", "more came behind the answer"
        return found, loop.time() - answered
    finally:
        client.leave("close")


async def answers(client: Client, count: int) -> list[Answer]:
    return [await client.answer() for _ in range(count)]


async def all_of(rig: Rig, door: str, rows: Iterable[Any], check: Callable[..., str | None]) -> None:
    """Every row in every cut; fails with all that went wrong."""
    gate, wrong = asyncio.Semaphore(AT_ONCE), []

    async def one(row: Any, pieces: list[bytes]) -> None:
        async with gate:
            try:
                message = await check(rig, row, pieces)
            except Exception as error:
                message = repr(error)
            if message is not None:
                wrong.append(f"{row.name}, {[len(piece) for piece in pieces[:2]]} of {len(pieces)}: {message}")

    async with asyncio.TaskGroup() as group:
        for row in rows:
            target = DOORS[door].split()[1]
            for pieces in cuts(row.stream.replace(b"POST PATH", DOORS[door]).replace(b"PATH", target)):
                group.create_task(one(row, pieces))
    assert not wrong, "\n".join(wrong[:20])


async def refused(rig: Rig, row: Refused, pieces: list[bytes]) -> str | None:
    (answer,), closed_s = await exchange(rig, pieces, 1, closes=True)
    early = row in BODIES and answer.status == (200 if b"/v1/models" in b"".join(pieces) else 404)
    if not early and (answer.status, answer.code) != (row.status, row.code):
        return f"{answer.status} {answer.body!r}"
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["x-request-id"]):
        return "no request id"
    return f"closed after {closed_s} s" if closed_s > CLOSED_WITHIN_S else None


@pytest.mark.parametrize("door", DOORS)
def test_what_can_be_read_in_two_ways_is_refused_and_reaches_no_node(no_leaks: Run, door: str) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            await all_of(rig, door, HEADS + BODIES, refused)
            told = [bytes(peer.received[:5]) for peer in node.peers]
            assert all(b"GET /".startswith(begun) for begun in told), told  # by a probe, or not yet
            assert not node.requests
            assert rig.router.driver.counters()["received"] == 0

    no_leaks(main)


@pytest.mark.parametrize("limit", [1024, 65536])
def test_a_head_may_be_as_long_as_it_is_configured(no_leaks: Run, limit: int) -> None:
    async def main() -> None:
        async with (
            RawNode(answering(raw_answer(b"{}"))) as node,
            routed(raw=[node.entry], limits={"head": f"{limit // 1024}KiB"}) as rig,
        ):
            for first in DOORS.values():
                head = first + b" HTTP/1.1\r\nHost: x\r\n"
                while limit - len(head) > 9000:
                    head += b"X: " + b"y" * 8000 + b"\r\n"
                for size in (limit, limit + 1):
                    client = await Client.connect(rig)
                    client.writer.write(head + b"X: " + b"y" * (size - len(head) - 7) + b"\r\n\r\n")
                    answer = await client.answer()
                    if size > limit:
                        assert (answer.status, answer.code) == (400, "bad_request")
                        assert f"{limit} bytes" in answer.json()["error"]["message"]
                        assert await client.rest() == b""
                    else:
                        assert b"head" not in answer.body
                    client.leave("close")

    no_leaks(main)


async def taken(rig: Rig, row: Taken, pieces: list[bytes]) -> str | None:
    lane = CHAT.encode() in b"".join(pieces)
    # aiohttp answers before it has the body, for which it then waits only so long.
    count = 2 if lane or len(pieces) <= 2 else 1
    (first, *others), _ = await exchange(rig, [*pieces, SECOND], count, closes=False)
    if first.status != (400 if lane and not row.body else 200):
        return f"{first.status} {first.body!r}"
    for second in others:
        if (second.status, second.body) != (200, b'{"status":"ok"}'):
            return f"the next request: {second.status} {second.body!r}"
    return None


@pytest.mark.parametrize("door", ["lane", "aiohttp"])
def test_what_is_one_request_is_served_as_one_and_so_is_the_next(no_leaks: Run, door: str) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            await all_of(rig, door, TAKEN, taken)
            if door == "aiohttp":
                assert not node.requests
            for request in node.requests:
                head, _, body = request.partition(b"\r\n\r\n")
                assert body == BODY
                assert not NEVER_FORWARDED.search(head), head

    no_leaks(main)
