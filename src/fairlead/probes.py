"""Questions to nodes: short, bounded, and never on the way of a request.

Promise: ``fetch`` always answers within the timeout, with at most 1 MiB, follows no redirect, keeps no cookie and
no connection (llama.cpp spends a thread on each that is kept). A node that does not answer is status 0.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import aiohttp

from fairlead.config import NodeConfig
from fairlead.engines import Engine, Reply

BODY_MAX: Final = 1 << 20


class Health(Enum):
    """What a health probe says. GONE: nobody listens there, so one answer is enough. LOADING: alive, not ready."""

    GOOD = "good"
    BAD = "bad"
    GONE = "gone"
    LOADING = "loading"


class Prober:
    """Asks nodes; one for all of them. ``close`` when done."""

    def __init__(self, timeout_ns: int) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout_ns / 1e9),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "fairlead-probe"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def fetch(self, node: NodeConfig, path: str) -> tuple[Reply, str]:
        """(answer, why there is none). status 0: none; the reason "refused" means that nobody listens."""
        headers = {"Authorization": f"Bearer {node.api_key}"} if node.api_key else {}
        try:
            async with self._session.get(node.url + path, headers=headers, allow_redirects=False) as response:
                body = bytearray()
                async for piece in response.content.iter_chunked(64 * 1024):
                    body += piece
                    if len(body) > BODY_MAX:
                        return Reply(0, b""), f"{path} is longer than {BODY_MAX} bytes"
                reply = Reply(response.status, bytes(body), response.headers.get("Server", ""))
                return reply, f"{path} answered {response.status}"
        except aiohttp.ClientConnectorDNSError as error:
            return Reply(0, b""), f"{path}: {error.strerror or error}"
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, ConnectionRefusedError)
            return Reply(0, b""), "refused" if refused else f"{path}: {error.os_error}"
        except TimeoutError:
            return Reply(0, b""), f"{path} did not answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(0, b""), f"{path}: {type(error).__name__}"

    async def health(self, node: NodeConfig, engine: Engine) -> tuple[Health, str]:
        reply, reason = await self.fetch(node, engine.health)
        if reply.status in (404, 405, 501) and engine.health != "/v1/models":
            reply, reason = await self.fetch(node, "/v1/models")
        if reason == "refused":
            return Health.GONE, "connection refused"
        if 200 <= reply.status < 300:
            return Health.GOOD, ""
        return (Health.LOADING if reply.status == 503 else Health.BAD), reason
