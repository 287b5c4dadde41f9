"""A scripted server on raw bytes, for everything that a well-behaved HTTP server can't be made to do.

A script is an async function of one ``Peer`` (one accepted connection). ``RawServer(first, second)`` runs ``first`` on
the first connection and ``second`` on all later ones. What a script raises, a failed assert too, is raised again when
the server's block ends. Every wait ends by itself after ``WAIT_S``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import cast

WAIT_S = 5.0


class Peer(asyncio.Protocol):
    """One accepted connection. ``received`` is every byte that arrived; ``ended`` says how the other side left."""

    def __init__(self, server: RawServer) -> None:
        self._server = server
        self._changed = asyncio.Event()
        self.taken = 0
        self.received = bytearray()
        self.ended: str | None = None  # "eof" or "reset"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._server.accepted(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = "eof"
        self._changed.set()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = self.ended or ("reset" if error else "eof")
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def gone(self) -> str:
        """Waits until the other side has left."""
        await self.until(lambda: self.ended is not None)
        return self.ended or ""

    async def head(self) -> bytes:
        """The next request's head, without waiting for its body."""
        await self.until(lambda: self.received.find(b"\r\n\r\n", self.taken) >= 0)
        end = self.received.index(b"\r\n\r\n", self.taken) + 4
        head, self.taken = bytes(self.received[self.taken : end]), end
        return head

    async def request(self) -> bytes:
        """The next request, head and body by Content-Length."""
        head = await self.head()
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        end = self.taken + length
        await self.until(lambda: len(self.received) >= end)
        body, self.taken = bytes(self.received[self.taken : end]), end
        return head + body

    async def send(self, *segments: bytes, gap_s: float = 0.01) -> None:
        """Each segment by itself; the gap lets the other side read it before the next comes."""
        for number, segment in enumerate(segments):
            if number:
                await asyncio.sleep(gap_s)
            self.transport.write(segment)

    def close(self) -> None:
        """FIN, after what was written; over TLS with close_notify."""
        self.transport.close()

    def half_close(self) -> None:
        """FIN, and goes on reading. Not over TLS."""
        self.transport.write_eof()

    def reset(self) -> None:
        """RST, unless the other side has cut already."""
        if self.transport.is_closing():
            return
        plug = self.transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def cut(self) -> None:
        """FIN without a word; over TLS without close_notify."""
        self.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """``async with RawServer(script) as server``: listens on ``server.port`` of 127.0.0.1."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._tasks: list[asyncio.Task[None]] = []
        self.peers: list[Peer] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def accepted(self, peer: Peer) -> None:
        script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
        self.peers.append(peer)
        self._tasks.append(asyncio.ensure_future(self._play(script, peer)))

    async def _play(self, script: Script, peer: Peer) -> None:
        await script(peer)

    async def __aenter__(self) -> RawServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            if error is not None:
                task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            peer.transport.abort()
        for result in results:
            if isinstance(result, Exception) and error is None:
                raise result


async def silent(peer: Peer) -> None:
    """A script that accepts and never answers, until the other side leaves."""
    await peer.gone()


async def refused_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port: int = plug.getsockname()[1]
        return port


def self_signed(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for the server and for a client that trusts it alone: 127.0.0.1 and localhost, good for one day."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
