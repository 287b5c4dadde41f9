"""The proxy that one would write in an afternoon: aiohttp's server and client, the node with the fewest requests.

python aiohttp_proxy.py PORT NODE_PORT...
"""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web

DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Proxy:
    def __init__(self, ports: list[int]) -> None:
        self.running = dict.fromkeys(ports, 0)
        self.session: aiohttp.ClientSession

    async def start(self, _: web.Application) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3600)
        timeout = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)

    async def stop(self, _: web.Application) -> None:
        await self.session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        port = min(self.running, key=self.running.__getitem__)
        self.running[port] += 1
        try:
            url = f"http://127.0.0.1:{port}{request.raw_path}"
            headers = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED}
            body = await request.read()
            async with self.session.request(request.method, url, data=body, headers=headers) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in DROPPED}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response
        finally:
            self.running[port] -= 1


def main(port: str, *nodes: str) -> None:
    proxy = Proxy([int(node) for node in nodes])
    app = web.Application(client_max_size=32 << 20)
    app.on_startup.append(proxy.start)
    app.on_cleanup.append(proxy.stop)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        loop=uvloop.new_event_loop(),
        handler_cancellation=True,
        backlog=4096,
        keepalive_timeout=3600,
        shutdown_timeout=0,
        print=None,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
