"""What an inference request means: from its head and body to a call in the queue, or to a refusal.

Promise: written once, for whoever carries the bytes. ``begin`` looks at everything that can be wrong with a request
before the queue hears of it, in the order id, headers, body, model, user; what it refuses has left no trace but a
count. A request that may not wait is dispatched at once or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from fairlead import headers, policy
from fairlead.call import Call, Carrier, Nodes, Outgoing, State, Surroundings
from fairlead.config import Config
from fairlead.core.scheduler import BYTES_FULL, NEVER_WAIT, USER_QUEUE_FULL
from fairlead.driver import Driver
from fairlead.errors import ApiError
from fairlead.identity import Identity
from fairlead.inspection import INFERENCE_PATHS, inspect
from fairlead.metrics import Meter
from fairlead.strict import shown

__all__ = ["Call", "Carrier", "Gateway", "InboundRequest", "State"]

_QUERY: Final = re.compile(r"[!-~]*")


@dataclass(slots=True)
class InboundRequest:
    """A POST whose body is complete. path is one of Gateway.paths, query what stood behind the question mark."""

    request_id: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    peer_ip: str | None


class Models(Nodes, Protocol):
    """What the gateway needs of the registry."""

    @property
    def any_never_answered(self) -> bool: ...


class Gateway:
    def __init__(self, config: Config, driver: Driver, nodes: Models, meter: Meter) -> None:
        self.paths = INFERENCE_PATHS | {path for node in config.nodes for path in node.paths}
        self.draining = False
        self._config = config
        self._driver = driver
        self._nodes = nodes
        self._meter = meter
        self._identity = Identity(config)
        by_token = config.queue.policy == policy.TOKEN_POLICY
        self._prices = policy.TokenPrices(config.queue.prices) if by_token else None
        self._surroundings = Surroundings(driver, nodes, meter, config.timeouts)

    def begin(self, request: InboundRequest, carrier: Carrier) -> Call:
        """Queue it. The carrier may have been told things, even the end, before this returns. Raises ApiError."""
        try:
            call = self._call(request, carrier)
        except ApiError as error:
            self._meter.reject(error.code)
            raise
        refusal = self._driver.submit(call)
        if refusal:
            raise self._refused(call, refusal)
        if call.state is State.QUEUED:
            call.waited = True
            call.position = self._driver.position(call)
            call.estimate_s = self._driver.estimated_wait_s(call.pool, call.position)
            if call.never_wait:
                raise self._would_wait(call)
        return call

    def reject(self, error: ApiError) -> None:
        """Count what a carrier refused before there was anything to begin."""
        self._meter.reject(error.code)

    def drain(self) -> None:
        """From now on nothing new is taken, and what waits is sent away; what runs goes on."""
        self.draining = True
        for call in self._calls():
            if call.state is State.QUEUED:
                call.give_up(self._draining_error())

    def give_up(self) -> int:
        """End what still runs. Returns how many that were."""
        calls = self._calls()
        for call in calls:
            call.give_up(self._draining_error())
        return len(calls)

    def model_moved(self, model: str, pool: int) -> None:
        """The nodes that serve the model are others than before: what waits for it follows it."""
        for call in self._calls():
            if call.state is State.QUEUED and call.outgoing.model == model and call.pool != pool:
                self._driver.move(call, pool)

    def waiting(self) -> int:
        """Calls in the queue, counted one by one: for the invariants."""
        return sum(call.state is State.QUEUED for call in self._calls())

    def running(self) -> int:
        return self._driver.counters()["running"]

    def exchanges(self) -> int:
        """Calls that have something open at a node, counted one by one: for the invariants."""
        return sum(call.state is not State.QUEUED and call.link is not None for call in self._calls())

    def _calls(self) -> list[Call]:
        return [ticket for ticket in self._driver.tickets() if isinstance(ticket, Call)]

    # Before the queue ----------------------------------------------------------------------------

    def _call(self, request: InboundRequest, carrier: Carrier) -> Call:
        if self.draining:
            raise self._draining_error()
        config, now_ns = self._config, self._driver.now_ns()
        deadline_ns, never_wait, total_deadline_ns = policy.deadlines(request.headers, now_ns, config)
        if not _QUERY.fullmatch(request.query):
            raise ApiError("invalid_value", "the query string must be visible ASCII: percent-encode it")
        content_type = request.headers.get("Content-Type", "")
        by_token = self._prices is not None
        facts = inspect(request.path, content_type, request.body, config.limits.width, count_text=by_token)
        pool = self._nodes.pool_of(facts.model)
        if pool is None:
            raise self._unknown(facts.model)
        user = self._identity.user(request.headers, request.peer_ip, facts.body_user)
        target = f"{request.path}?{request.query}" if request.query else request.path
        passed = headers.for_node(request.headers, request.request_id)
        outgoing = Outgoing(request.request_id, request.path, target, passed, request.body, facts.model, facts.stream)
        call = Call(self._surroundings, carrier, outgoing, now_ns)
        call.pool = pool
        call.user = user.key
        call.weight, call.cost = policy.core_numbers(config.queue.policy, user, facts)
        if self._prices is not None:
            call.bill = self._prices.bill(user.key, facts)
            call.cost = call.bill.estimate
        call.width = facts.width
        call.size_bytes = facts.size_bytes
        call.deadline_ns = deadline_ns
        call.total_deadline_ns = total_deadline_ns
        call.never_wait = never_wait
        call.running_max = user.running_max
        # Who may not wait must not push out those who do.
        call.waiting_max = NEVER_WAIT if never_wait else user.waiting_max
        return call

    def _unknown(self, model: str) -> ApiError:
        if self._nodes.any_never_answered:
            soon = headers.retry_headers(self._driver.retry_soon_ms())
            message = f"no node offers the model {shown(model)} yet, but not every node has answered: try again soon"
            return ApiError("model_loading", message, param="model", headers=soon)
        message = f"no node has ever offered the model {shown(model)}: see GET /v1/models for those there are"
        return ApiError("model_not_found", message, param="model")

    def _draining_error(self) -> ApiError:
        message = "the router is shutting down: send the request again, another instance or the next one will take it"
        return ApiError("draining", message, headers=headers.retry_headers(self._driver.retry_soon_ms()))

    # At the queue's door -------------------------------------------------------------------------

    def _refused(self, call: Call, refusal: int) -> ApiError:
        queue = self._config.queue
        if refusal == USER_QUEUE_FULL:
            message = f"this user has {queue.max_waiting_per_user} requests waiting, the most one user may have"
            return self._full(call, "user_queue_full", message)
        if refusal == BYTES_FULL:
            message = f"the requests that wait hold {queue.max_bytes} bytes together, the most they may"
        else:
            message = f"{queue.max_waiting} requests wait, the most that may"
        return self._full(call, "queue_full", message)

    def _would_wait(self, call: Call) -> ApiError:
        """Nobody is to wait for it, and no slot is free."""
        call.withdraw("refused")
        if not self._driver.has_usable_node(call.pool):
            return call.no_node(f"no node that serves the model is usable, and {policy.QUEUE_TIMEOUT} is 0")
        return self._full(call, "queue_full", f"no slot is free, and {policy.QUEUE_TIMEOUT} is 0: it may not wait")

    def _full(self, call: Call, code: str, message: str) -> ApiError:
        driver, pool = self._driver, call.pool
        position = call.position or driver.position_refused(call)
        self._meter.refuse(driver.now_ns())
        told = headers.retry_headers(driver.retry_after_ms(pool, position))
        told |= headers.place_headers(position, driver.estimated_wait_s(pool, position))
        return ApiError(code, f"{message}: come back after Retry-After", headers=told)
