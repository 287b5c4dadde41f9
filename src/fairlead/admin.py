"""The admin listener: what an operator, Prometheus and the tests ask.

Promise: it answers only to those who meant it. A page in a browser can reach 127.0.0.1 under a name of its own (DNS
rebinding), but it can't change the Host header that it brings along, so any but the listener's own is refused.
Nothing here is on the way of a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import orjson
from aiohttp import web

from fairlead.driver import Driver
from fairlead.errors import ApiError
from fairlead.frontend import HEALTH, Health, allow
from fairlead.gateway import Gateway
from fairlead.listener import SERVER, error_response, json_response, request_id_of
from fairlead.metrics import CONTENT_TYPE, Exposition, Meter
from fairlead.policy import REQUEST_ID
from fairlead.strict import shown
from fairlead.user_list import PoolModels, UserList

LOOPBACK_NAMES: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))


class NodeList(PoolModels, Protocol):
    """What is shown of the registry."""

    def describe(self) -> list[dict[str, Any]]: ...


class Admin:
    """``handle`` is the Listener's handler. host: the address it listens on."""

    def __init__(
        self,
        host: str,
        driver: Driver,
        gateway: Gateway,
        meter: Meter,
        nodes: NodeList,
        exposition: Exposition,
        health: Health,
    ) -> None:
        self._hosts = LOOPBACK_NAMES | {f"[{host}]" if ":" in host else host}
        self._driver = driver
        self._gateway = gateway
        self._meter = meter
        self._nodes = nodes
        self._exposition = exposition
        self._health = health
        self._users = UserList(meter.users, meter.unit, driver, nodes)
        # Of the query and the request's id.
        self._routes: dict[str, Callable[[str, str], Awaitable[web.Response]]] = {
            "/metrics": self._metrics,
            "/api/queue/stats": self._queue_stats,
            "/api/invariants": self._invariants,
            "/api/nodes": self._list_nodes,
            "/api/users": self._list_users,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id, (path, _, query) = request_id_of(request.headers), request.raw_path.partition("?")
        try:
            self._check_host(request.headers.get("Host", ""))
            if path in HEALTH:
                allow(request, path, "GET", "HEAD")
                return self._health.answer(path, request_id)
            route = self._routes.get(path)
            if route is None:
                raise ApiError("not_found", f"there is nothing at {shown(path)}: see {', '.join(self._routes)}")
            allow(request, path, "GET", "HEAD")
            return await route(query, request_id)
        except ApiError as error:
            response = error_response(error, path, request_id)
            response.force_close()
            return response

    def _check_host(self, host: str) -> None:
        name, colon, port = host.rpartition(":")
        if not (colon and port.isdigit()):
            name = host
        if name.lower() not in self._hosts:
            message = f"the Host header is {shown(host)}: ask for {' or '.join(sorted(self._hosts))}"
            raise ApiError("bad_request", message)

    async def _metrics(self, _query: str, request_id: str) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE, REQUEST_ID: request_id, "Server": SERVER}
        return web.Response(body=await self._exposition.text(), headers=headers)

    async def _queue_stats(self, _query: str, request_id: str) -> web.Response:
        counters, hour = self._driver.counters(), self._meter.hour.sums(self._driver.now_ns())
        stats = {
            "waiting_count": counters["waiting"],
            "processing_count": counters["running"],
            "avg_wait_time_ms": _average_ms(hour.waited_ns, hour.dispatched),
            "avg_process_time_ms": _average_ms(hour.processed_ns, hour.ended),
            "timeout_count": hour.timeouts,
            "rejected_count": hour.rejected,
        }
        return json_response(orjson.dumps(stats), request_id)

    async def _list_nodes(self, _query: str, request_id: str) -> web.Response:
        return json_response(orjson.dumps({"nodes": self._nodes.describe()}), request_id)

    async def _list_users(self, query: str, request_id: str) -> web.Response:
        return json_response(orjson.dumps(await self._users.document(query)), request_id)

    async def _invariants(self, _query: str, request_id: str) -> web.Response:
        """Two sides count the same things in different ways; here they are compared."""
        failures: list[str] = []
        try:
            self._driver.check()  # the core: queue = deadlines = sum over users, and all the rest
        except AssertionError as error:
            failures.append(str(error))
        counters = self._driver.counters()
        users_waiting, users_running = self._meter.users.held()
        numbers = {
            "waiting": counters["waiting"],
            "gateway_waiting": self._gateway.waiting(),
            "users_waiting": users_waiting,
            "leases": counters["running"],
            "open_exchanges": self._gateway.exchanges(),
            "users_running": users_running,
            "received": counters["received"],
            "accounted": sum(counters[word] for word in LEDGER),
        }
        for one, other in COMPARED:
            if numbers[one] != numbers[other]:
                failures.append(f"{one} is {numbers[one]}, {other} is {numbers[other]}")
        body = orjson.dumps({"ok": not failures, "failures": failures, **numbers, "ledger": counters})
        return json_response(body, request_id, status=500 if failures else 200)


COMPARED: Final = (
    ("waiting", "gateway_waiting"),
    ("waiting", "users_waiting"),
    ("leases", "open_exchanges"),
    ("leases", "users_running"),
    ("received", "accounted"),
)
# received = the sum of these, at any time.
LEDGER: Final = (
    "refused",
    "pushed_out",
    "expired",
    "no_node",
    "cancelled",
    "failed",
    "completed",
    "waiting",
    "running",
)


def _average_ms(total_ns: int, count: int) -> float:
    return round(total_ns / count / 1e6, 3) if count else 0.0
