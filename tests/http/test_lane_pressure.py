"""Readers that stand still, in front of a router that is a process of its own, so that its memory can be looked at."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from raw_server import Peer
from rig import Client, RawNode, chat_body, routed

Run = Callable[[Any], Any]
STALLED = 16
STALL_S = 2.0
START_S = 20.0
STREAM_BYTES = 1 << 30
# Of user memory: what one read of the node brings, and what the transport holds above its high-water mark.
PER_CLIENT_MAX = 768 * 1024
# Between node and client, in three kernels' buffers: to the router, from the router, to the client.
PER_CLIENT_SENT_MAX = 16 << 20
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LISTENS = re.compile(rb"listens on http://127\.0\.0\.1:(\d+)")


@asynccontextmanager
async def process(directory: Path, document: dict[str, Any]) -> AsyncIterator[tuple[int, int]]:
    """A router's process id and port."""
    path = directory / "fairlead.yaml"
    # The log would have each event read, which may keep a megabyte of one that does not end.
    ours = {"listen": "127.0.0.1:0", "admin": "none", "log": {"requests": "none"}}
    path.write_text(yaml.safe_dump(ours | document))
    command = (sys.executable, "-m", "fairlead", "serve", str(path))
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE  # what is said to people is on the error stream
    running = await asyncio.create_subprocess_exec(*command, stdout=null, stderr=pipe)
    assert running.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            while (match := LISTENS.search(await running.stderr.readline())) is None:
                assert running.returncode is None
        yield running.pid, int(match[1])
    finally:
        running.kill()
        await running.wait()
        running._transport.close()  # type: ignore[attr-defined]


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


class Fountain:
    """A node whose every answer is a gigabyte, as fast as it is taken."""

    def __init__(self) -> None:
        self.sent: dict[Peer, int] = {}
        self.stopped = 0

    async def __call__(self, peer: Peer, request: bytes) -> None:
        piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        await peer.send(SSE_HEAD)
        self.sent[peer] = 0
        while peer.ended is None and self.sent[peer] < STREAM_BYTES:
            if peer.transport.get_write_buffer_size() < 65536:
                peer.transport.write(piece)
                self.sent[peer] += len(piece)
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(0.005)
        self.stopped += 1


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


async def post(port: int, body: bytes) -> Client:
    client = await connect(port)
    client.send_post(body)
    return client


@pytest.mark.slow
def test_readers_that_stand_still_cost_little_and_are_cut(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fountain = Fountain()
        timeouts = {"write_stall": f"{STALL_S:.0f}s", "idle": "60s"}
        async with (
            RawNode(fountain, slots=100) as node,
            process(tmp_path, {"nodes": [node.entry], "timeouts": timeouts}) as (pid, port),
        ):
            first = await post(port, chat_body(stream=True))  # what the router has once for all
            await first.head()
            for _ in range(100):
                await first.chunk()
            first.leave("close")
            await until(lambda: fountain.stopped == 1)
            before = resident_bytes(pid)
            begun = loop.time()
            clients = [await post(port, chat_body(stream=True)) for _ in range(STALLED)]
            for client in clients:
                await client.head()
                client.writer.transport.pause_reading()
            most = 0
            while loop.time() - begun < STALL_S * 0.8:
                most = max(most, resident_bytes(pid))
                await asyncio.sleep(0.02)
            assert most - before < STALLED * PER_CLIENT_MAX
            stalled = list(fountain.sent.values())[1:]
            assert len(stalled) == STALLED and max(stalled) < PER_CLIENT_SENT_MAX
            await asyncio.sleep(0.1)
            assert list(fountain.sent.values())[1:] == stalled, "the node is not paused"
            await until(lambda: fountain.stopped == 1 + STALLED, STALL_S + 10)
            assert loop.time() - begun >= STALL_S
            for client in clients:
                client.leave("close")

    no_leaks(main)


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  nobody tells of it
            await asyncio.sleep(0.01)


@pytest.mark.slow
def test_a_reader_that_is_slow_but_steady_gets_everything(no_leaks: Run) -> None:
    """Longer than a standstill may last, and with a full buffer before it all the time."""
    body = Random(1).randbytes(8 << 20)

    async def main() -> None:
        async def script(peer: Peer, request: bytes) -> None:
            await peer.send(SSE_HEAD)
            for start in range(0, len(body), 50_000):
                piece = body[start : start + 50_000]
                peer.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await peer.send(b"0\r\n\r\n")

        async with RawNode(script) as node, routed(raw=[node.entry], timeouts={"write_stall": "500ms"}) as rig:
            loop = asyncio.get_running_loop()
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            begun, got = loop.time(), bytearray()
            while piece := await client.chunk():
                got += piece
                await asyncio.sleep(len(piece) / (4 << 20))
            assert got == body
            assert loop.time() - begun > 1.5
            client.leave("close")

    no_leaks(main)
