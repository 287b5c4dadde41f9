"""A router with its nodes on loopback, for the tests; when a test ends, everything must be back to zero.

``async with routed(nodes, ...) as rig``: the router runs, every node was asked once. On the way out the invariants must
be clean and all counts zero within a second, and the stopped router must have left no timer, no connection and no
connection's slot or alarm behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import orjson
import yaml
from raw_server import Peer, RawServer

from fairlead.app import Router
from fairlead.config import load
from fairlead.driver import Driver
from fairlead.gateway import Gateway
from fairlead.listener import Listener
from fairlead.mocknode import MockNode, MockSettings, serving
from fairlead.ticket import Ticket

MODEL = "demo"
CHAT = "/v1/chat/completions"
WAIT_S = 5.0


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


class WatchedDriver(Driver):
    """A driver whose methods a test can replace: those of the compiled class can't be."""


class WatchedGateway(Gateway):
    """The same of the gateway."""


class Rig:
    """The running router and what a test needs around it."""

    def __init__(self, router: Router, session: aiohttp.ClientSession, mocks: list[MockNode]) -> None:
        self.router = router
        self.session = session
        self.mocks = mocks
        self.host, self.port = router.addresses["public"]
        self.url = f"http://{self.host}:{self.port}"
        host, port = router.addresses["admin"]
        self.admin_url = f"http://{host}:{port}"

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        url = path if path.startswith("http") else self.url + path
        async with self.session.request(method, url, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def chat(self, prompt: str = "hello", *, user: str = "u", headers: Any = None, **fields: Any) -> Answer:
        """A chat completion of some user; fields go into the body."""
        body = chat_body(prompt, **fields)
        return await self.request("POST", CHAT, data=body, headers={"X-User-Id": user} | (headers or {}))

    def later(self, prompt: str = "hello", **options: Any) -> asyncio.Task[Answer]:
        return asyncio.ensure_future(self.chat(prompt, **options))

    async def invariants(self) -> dict[str, Any]:
        answer = await self.request("GET", self.admin_url + "/api/invariants")
        assert answer.status == 200, answer.body
        return dict(answer.json())

    def waiting(self) -> int:
        return self.router.driver.counters()["waiting"]

    def connected(self) -> int:
        """Clients' connections that the router has."""
        return self.router._public.open_count

    def running(self) -> int:
        return self.router.driver.counters()["running"]

    def started(self, mock: int = 0) -> list[str]:
        """The prompts that a node began to work on, in order."""
        return [entry["prompt"] for entry in self.mocks[mock]._log]

    async def until(self, condition: Callable[[], bool], what: str = "the condition") -> float:
        """Seconds until it holds; fails after WAIT_S."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not condition():
            assert loop.time() - begun < WAIT_S, f"{what} did not come true"
            await asyncio.sleep(0.001)
        return loop.time() - begun


def charges(rig: Rig) -> list[int]:
    """The costs with which requests will have ended, in that order."""
    found: list[int] = []
    driver = rig.router.driver
    finish = driver.finish

    def spy(ticket: Ticket, outcome: int, cost: int) -> bool:
        found.append(cost)
        return finish(ticket, outcome, cost)

    driver.finish = spy  # type: ignore[method-assign]
    return found


def chat_body(prompt: str = "hello", **fields: Any) -> bytes:
    return orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}]} | fields)


def configured(nodes: list[dict[str, Any]], **sections: Any) -> Any:
    """The configuration of a file with these nodes and sections, on free ports, with quick health probes."""
    document: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "nodes": nodes,
        "health": {"period": "100ms", "timeout": "500ms"},
        "log": {"requests": "none"},
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "fairlead.yaml")
        path.write_text(yaml.safe_dump(document | sections))
        return load(path, env={})


@asynccontextmanager
async def routed(
    mocks: list[MockSettings] | None = None,
    *,
    entry: dict[str, Any] | None = None,
    raw: list[dict[str, Any]] | None = None,
    **sections: Any,
) -> AsyncIterator[Rig]:
    """mocks are served, and configured as entry says; raw are nodes of the configuration that the test serves."""
    async with AsyncExitStack() as stack:
        nodes: list[dict[str, Any]] = []
        served: list[MockNode] = []
        for settings in mocks or []:
            mock = MockNode(settings)
            port = await stack.enter_async_context(serving(mock))
            url = f"http://127.0.0.1:{port}"
            nodes.append({"name": settings.name, "url": url, "slots": settings.slots} | (entry or {}))
            served.append(mock)
        with patch("fairlead.app.Driver", WatchedDriver), patch("fairlead.app.Gateway", WatchedGateway):
            router = Router(configured(nodes + (raw or []), **sections), seed=1)
        await router.start()
        try:
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
            rig = Rig(router, session, served)
            yield rig
            if not router.gateway.draining:  # else the test has stopped it, and its admin listener with it
                await zero(rig)
        finally:
            await router.stop(0.0)
        no_timers()
        for listener in listeners(router):
            listener.check()
            assert listener.open_count == 0


async def zero(rig: Rig) -> None:
    """Nothing waits, nothing runs, all ledgers agree."""
    await rig.until(lambda: not rig.waiting() and not rig.running(), "that nothing waits or runs")
    found = await rig.invariants()
    assert found["ok"] and found["waiting"] == found["leases"] == found["open_exchanges"] == 0, found
    for listener in listeners(rig.router):
        listener.check()


def listeners(router: Router) -> list[Listener]:
    return [listener for listener in (router._public, router._admin) if listener is not None]


def no_timers() -> None:
    """asyncio's own loop shows its timers; uvloop's does not."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", [])
    left = [timer for timer in scheduled if not timer.cancelled() and "fairlead" in repr(timer)]
    assert not left, f"timers left: {left}"


@dataclass
class Client:
    """A client on a raw socket, for everything that a well-behaved one does not do."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, rig: Rig) -> Client:
        return cls(*await asyncio.open_connection(rig.host, rig.port))

    @classmethod
    async def post(cls, rig: Rig, body: bytes, *headers: str, path: str = CHAT) -> Client:
        client = await cls.connect(rig)
        client.send_post(body, *headers, path=path)
        return client

    def send_post(self, body: bytes, *headers: str, path: str = CHAT) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: router", "Content-Type: application/json", *headers]
        self.writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(WAIT_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in lines[1:] if line]
        return int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}

    async def chunk(self) -> bytes:
        """The next chunk of a chunked answer; empty: its end."""
        async with asyncio.timeout(WAIT_S):
            size = int(await self.reader.readline(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        """The whole next answer, by its framing."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self.chunk():
                body += piece
        else:
            async with asyncio.timeout(WAIT_S):
                body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def rest(self) -> bytes:
        """All that comes until the router closes; ConnectionResetError if it resets."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()

    def leave(self, how: str) -> None:
        if how == "half-close":
            self.writer.write_eof()
            return
        if how == "reset":
            plug = self.writer.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer, bytes], Awaitable[None]]
LISTED = orjson.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "raw"}]})


def raw_answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class RawNode(RawServer):
    """A node that is well when it is asked for its health and models, and does to a request what its script says.

    ``requests`` are the requests that it got, head and body.
    """

    def __init__(self, script: Script, name: str = "raw", slots: int = 8) -> None:
        super().__init__(self._serve)
        self._script = script
        self._name = name
        self._slots_configured = slots
        self.requests: list[bytes] = []

    @property
    def entry(self) -> dict[str, Any]:
        """The node's entry in the configuration."""
        return {"name": self._name, "url": self.url, "slots": self._slots_configured, "engine": "openai"}

    async def _serve(self, peer: Peer) -> None:
        while await self._more(peer):
            request = await peer.request()
            if request.startswith(b"GET"):
                await peer.send(raw_answer(LISTED))
            else:
                self.requests.append(request)
                await self._script(peer, request)

    @staticmethod
    async def _more(peer: Peer) -> bool:
        """Whether another request comes, and not the end."""
        while peer.ended is None and len(peer.received) == peer.taken:
            with contextlib.suppress(TimeoutError):
                await peer.until(lambda: peer.ended is not None or len(peer.received) > peer.taken)
        return peer.ended is None


def answering(*segments: bytes) -> Script:
    async def script(peer: Peer, request: bytes) -> None:
        await peer.send(*segments)

    return script


async def silence(peer: Peer, request: bytes) -> None:
    """Never answers, however long it takes."""
    while peer.ended is None:
        with contextlib.suppress(TimeoutError):
            await peer.gone()


class Gate:
    """A node that answers nothing until it is opened, and everything from then on."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, peer: Peer, request: bytes) -> None:
        await self.open.wait()
        await peer.send(raw_answer(b'{"object":"chat.completion","choices":[]}'))


def prompts(requests: list[bytes]) -> list[str]:
    """Of chat requests that a RawNode got."""
    return [orjson.loads(request.partition(b"\r\n\r\n")[2])["messages"][0]["content"] for request in requests]
