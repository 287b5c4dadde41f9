"""The connections to one node: dialling, keeping, reusing, refusing.

Promise: ``Pool.send`` never blocks and never raises; what becomes of the request comes by the exchange's callbacks
(see upstream_exchange). No task, future or timer per request on a reused connection; a fresh one costs one task
until it is connected.

Theory. Kept connections are a bounded stack: the warmest is used first and the others age out, below the 5 s at which
uvicorn and llama.cpp close theirs. As many are kept as the node has slots (see nodes), so that a loaded node is hardly
ever dialled, and no more: llama.cpp spends a thread on each and has few more threads than slots. One timer per pool
watches the oldest. A node may still close as we send, so a reused connection that dies before the first byte of an
answer is not a failure of the node: the request is sent once more, on a fresh connection.

First-byte, idle and total timeouts belong to the caller, who calls ``abort()``; only connecting, TLS included, has its
own.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from typing import Final, cast
from urllib.parse import urlsplit

from fairlead.upstream_connection import Connection, Owner
from fairlead.upstream_exchange import Exchange, Kind, Link, Lost, raised
from fairlead.wire.headers import whole_lines

__all__ = ["Endpoint", "Exchange", "Link", "Lost", "Pool"]

IDLE_NS: Final = 4_000_000_000
IDLE_MIN: Final = 4  # connections that are kept to any node
STARTS_MAX: Final = 64  # heads' beginnings that are remembered
TARGET_KEPT_MAX: Final = 256

TARGET: Final = re.compile(r"/[!-~]*")
VISIBLE: Final = re.compile(r"[!-~]+")
# Out of something ourselves: says nothing about the node.
OUR_OWN_ERRORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class Endpoint:
    """Where a node listens, and the key it asks for."""

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        base_path: str = "",
        ssl_context: ssl.SSLContext | None = None,
        api_key: str | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.ssl_context = ssl_context
        self._base_path = base_path
        self._starts: dict[str, bytes] = {}  # of heads, by target
        name = f"[{host}]" if ":" in host else host
        if port != {"http": 80, "https": 443}[scheme]:
            name = f"{name}:{port}"
        lines = [("Host", name), ("Connection", "keep-alive")]
        if api_key is not None and not VISIBLE.fullmatch(api_key):
            raise ValueError("the header Authorization would not be one line: the key is not visible ASCII")
        if api_key is not None:
            lines.append(("Authorization", f"Bearer {api_key}"))
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in lines).encode("ascii")

    @classmethod
    def from_url(cls, url: str, *, api_key: str | None = None, ssl_context: ssl.SSLContext | None = None) -> Endpoint:
        """The endpoint of ``http(s)://host[:port][/base]``; ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"not http(s)://host[:port][/path]: {url!r}")
        base_path = parts.path.rstrip("/")
        if parts.query or parts.fragment or (base_path and not TARGET.fullmatch(base_path)):
            raise ValueError(f"not http(s)://host[:port][/path]: {url!r}")
        if parts.scheme == "http":
            return cls("http", parts.hostname, parts.port or 80, base_path, None, api_key)
        context = ssl_context or ssl.create_default_context()
        return cls("https", parts.hostname, parts.port or 443, base_path, context, api_key)

    def request_head(self, target: str, lines: bytes, content_length: int) -> bytes:
        """The head of a POST. lines: whole header lines, none of those that are written here: Host, Connection, the
        node's own key, Content-Length. target: an absolute path of visible ASCII."""
        start = self._starts.get(target) or self._start(target)
        if not whole_lines(lines):
            raise ValueError("these are not whole lines of one head")
        return b"".join((start, lines, f"Content-Length: {content_length}\r\n\r\n".encode("ascii")))

    def _start(self, target: str) -> bytes:
        if not target.startswith("/") or " " in target or not (target.isascii() and target.isprintable()):
            raise ValueError(f"not an absolute path of visible ASCII: {target!r}")
        start = f"POST {self._base_path}{target} HTTP/1.1\r\n".encode("ascii") + self._lines
        if len(self._starts) < STARTS_MAX and len(target) <= TARGET_KEPT_MAX:
            self._starts[target] = start
        return start


class Pool(Owner):
    """The connections to one endpoint. idle_max may change; the counters are for the operator's page, and only this
    class writes them. Compiled: see upstream.pxd."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        *,
        idle_max: int = IDLE_MIN,
        idle_ns: int = IDLE_NS,
        connect_ns: int,
    ) -> None:
        self.loop = loop
        self.endpoint = endpoint
        self.closed = False
        self.idle_max = idle_max
        self._idle_s = idle_ns / 1e9
        self._connect_s = connect_ns / 1e9
        self._idle: list[Connection] = []  # by idle_since, the oldest first
        self._dials: set[Dial] = set()  # the loop holds its tasks only weakly
        self._timer: asyncio.TimerHandle | None = None
        self.open = 0  # connections, busy and idle
        self.dials = 0  # begun
        self.reuses = 0  # exchanges begun on a kept connection
        self.stale_retries = 0  # of which the connection was dead and the request went out again
        self.discarded = 0  # connections thrown away for what the node did: left, or spoke unasked

    @property
    def idle(self) -> int:
        return len(self._idle)

    def send(self, head: bytes, body: bytes, exchange: Exchange) -> None:
        """Begins the exchange on a kept connection, or on a fresh one as soon as it is connected."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.quiet():
                self.discarded += 1
            elif self.loop.time() - connection.idle_since < self._idle_s:
                self.reuses += 1
                connection.begin(exchange, head, body, True)
                return
            connection.drop()
        self._dial(exchange, head, body, False)

    def close(self) -> None:
        """Cuts what is idle. Exchanges under way go on; their connections are not kept, and nothing new is dialled."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.drop()

    def _dial(self, exchange: Exchange, head: bytes, body: bytes, paused: bool) -> None:
        dial = Dial(self, exchange, head, body, paused)
        exchange.link = dial
        self._dials.add(dial)

    def _expire(self) -> None:
        self._timer = None
        now = self.loop.time()
        while self._idle and self._idle[0].idle_since + self._idle_s <= now:
            self._idle.pop(0).drop()
        if self._idle:
            self._timer = self.loop.call_at(self._idle[0].idle_since + self._idle_s, self._expire)

    # What a connection tells its owner

    def opened(self) -> None:
        self.open += 1

    def gone(self) -> None:
        self.open -= 1

    def keep(self, connection: Connection) -> bool:
        if self.closed or len(self._idle) >= self.idle_max:
            return False
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._timer is None:  # else it is due for an older one, or for nothing, and looks again then
            self._timer = self.loop.call_at(connection.idle_since + self._idle_s, self._expire)
        return True

    def distrust(self, connection: Connection) -> None:
        self.discarded += 1
        if connection in self._idle:
            self._idle.remove(connection)

    def retry(self, exchange: Exchange, head: bytes, body: bytes, paused: bool) -> None:
        self.stale_retries += 1
        self.discarded += 1
        self._dial(exchange, head, body, paused)


class Dial:
    """One exchange on its way to a fresh connection."""

    __slots__ = ("_body", "_exchange", "_head", "_paused", "_pool", "_task")

    def __init__(self, pool: Pool, exchange: Exchange, head: bytes, body: bytes, paused: bool) -> None:
        self._pool = pool
        self._exchange: Exchange | None = exchange
        self._head = head
        self._body = body
        self._paused = paused
        self._task = pool.loop.create_task(self._run())
        # Not at the end of _run: cancelled before its first step, a task never enters its coroutine.
        self._task.add_done_callback(self._done)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def abort(self) -> None:
        self._exchange = None
        self._task.cancel()

    def _done(self, _: asyncio.Task[None]) -> None:
        self._pool._dials.discard(self)

    async def _run(self) -> None:
        connection = Connection(self._pool)
        lost: Lost | None = None
        try:
            await self._connect(connection)
            lost = connection.early
            if lost is None:
                connection.adopt()
        except Exception as error:
            lost = why_not_connected(error)
        finally:
            if not connection.adopted:
                connection.drop()
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            connection.drop()
        elif lost is not None:
            exchange.link = None
            try:
                exchange.on_lost(lost)
            except Exception as error:
                raised(self._pool.loop, "on_lost", error)
        else:
            if self._paused:
                connection.pause()
            connection.begin(exchange, self._head, self._body, False)
        self._head = self._body = b""

    async def _connect(self, connection: Connection) -> None:
        pool, endpoint = self._pool, self._pool.endpoint
        if pool.closed:
            raise ConnectionRefusedError("the pool is closed")
        pool.dials += 1
        async with asyncio.timeout(pool._connect_s):
            await pool.loop.create_connection(
                lambda: cast(asyncio.Protocol, connection), endpoint.host, endpoint.port, ssl=endpoint.ssl_context
            )


def why_not_connected(error: Exception) -> Lost:
    """The loss that an exception of create_connection means."""
    kind: Kind = "internal"
    if isinstance(error, TimeoutError):
        return Lost("connect", "timeout", "not connected in time")
    if isinstance(error, ssl.SSLError):
        kind = "protocol"
    elif isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        kind = "reset"
    elif isinstance(error, (OSError, UnicodeError)) and getattr(error, "errno", None) not in OUR_OWN_ERRORS:
        kind = "refused"  # unreachable and unknown names too: nobody answers there
    return Lost("connect", kind, str(error) or type(error).__name__)
