"""What an inference request means: from its head and body to a call in the queue, or to a refusal.

Promise: written once, for whoever carries the bytes. ``begin`` looks at everything that can be wrong with a request
before the queue hears of it, in the order id, headers, body, model, user; what it refuses has left no trace but a
count. A request that may not wait is dispatched at once or not at all.
"""

from __future__ import annotations

import logging
import re
from typing import Final, Protocol

from fairlead import policy
from fairlead.call import Call, Carrier, Nodes, Outgoing, Surroundings
from fairlead.config import Config
from fairlead.core.scheduler import BYTES_FULL, NEVER_WAIT, USER_QUEUE_FULL
from fairlead.driver import Driver
from fairlead.errors import ApiError
from fairlead.headers import for_node, place_headers, retry_headers
from fairlead.identity import Identity
from fairlead.inspection import CHEAP_PATHS, INFERENCE_PATHS, JSON_PATHS, inspect
from fairlead.metrics import Meter
from fairlead.places import NoRoom
from fairlead.strict import shown
from fairlead.wire.headers import key_of
from fairlead.wire.lane import Inbound

__all__ = ["Call", "Carrier", "Gateway"]

log = logging.getLogger(__name__)

_CONTENT_TYPE: Final = key_of("Content-Type")
_QUERY: Final = re.compile(r"[!-~]*")


class Models(Nodes, Protocol):
    """What the gateway needs of the registry."""

    @property
    def any_never_answered(self) -> bool: ...
    def pool_of(self, model: str, path: str = "") -> int | None: ...
    def context_of(self, model: str) -> int | None: ...


class Gateway:
    def __init__(self, config: Config, driver: Driver, nodes: Models, meter: Meter) -> None:
        self.paths = INFERENCE_PATHS | {path for node in config.nodes for path in node.paths}
        self.draining = False
        self._config = config
        self._driver = driver
        self._nodes = nodes
        self._meter = meter
        self._identity = Identity(config)
        self._terms = policy.Terms(config)
        self._width_max = config.limits.width
        by_token = config.queue.policy == policy.TOKEN_POLICY
        self._prices = policy.TokenPrices(config.queue.prices) if by_token else None
        self._reads = meter.log is not None  # tokens, for the log, where they are not read for the price
        self._surroundings = Surroundings(driver, nodes, meter, config.timeouts)
        self._surroundings.place_of = self._place_now

    def begin(self, request: Inbound, carrier: Carrier) -> Call:
        """Queue it. The carrier may have been told things, even the end, before this returns. Raises ApiError."""
        try:
            call = self._call(request, carrier)
        except ApiError as error:
            self.reject(error, request.request_id, request.path)
            raise
        self._meter.entered(call, call.entered_ns)
        refusal = self._driver.submit(call)
        if refusal:
            raise self._refused(call, refusal)
        if call.waits:
            call.waited = True
            call.position = self._driver.position(call)
            call.estimate_s = self._driver.estimated_wait_s(call.pool, call.position)
            if call.never_wait:
                raise self._would_wait(call)
        return call

    def reject(self, error: ApiError, request_id: str, path: str) -> None:
        """Count what was refused before it could be offered to the queue; a carrier does so before it can begin."""
        self._meter.rejected(request_id, path, error)

    def drain(self) -> None:
        """From now on nothing new is taken, and what waits is sent away; what runs goes on."""
        self.draining = True
        for call in self._calls():
            if call.waits:
                call.give_up(self._draining_error())

    def give_up(self) -> int:
        """End what still runs. Returns how many that were."""
        calls = self._calls()
        for call in calls:
            call.give_up(self._draining_error())
        return len(calls)

    def model_moved(self, model: str, path: str, pool: int) -> None:
        """The nodes that serve the model (at that path, if it is a node's own) are others than before: what waits for
        it follows it, in its tier and team."""
        for call in self._calls():
            outgoing = call.outgoing
            if call.waits and (outgoing.model, _own_path(outgoing.path)) == (model, path):
                self._follow(call, pool)

    def _follow(self, call: Call, pool: int) -> None:
        where = self._place_in(call, pool)
        if where is not None and where[0] != call.pool:
            self._meter.moved(call, where[0], where[1], self._driver.now_ns())
            self._driver.move(call, *where)

    def _place_now(self, call: Call) -> tuple[int, int] | None:
        """Where a request belongs that comes back from a node; None: where it was."""
        pool = self._nodes.pool_of(call.outgoing.model, _own_path(call.outgoing.path))
        return None if pool is None else self._place_in(call, pool)

    def _place_in(self, call: Call, pool: int) -> tuple[int, int] | None:
        try:
            return self._driver.find_place(pool, call.tier, call.team, call.outgoing.path in CHEAP_PATHS)
        except NoRoom as error:
            log.error("request %s stays where its model was: %s", call.outgoing.request_id, error)
            return None

    def waiting(self) -> int:
        """Calls in the queue, counted one by one: for the invariants."""
        return sum(call.waits for call in self._calls())

    def running(self) -> int:
        return self._driver.counters()["running"]

    def exchanges(self) -> int:
        """Calls that have something open at a node, counted one by one: for the invariants."""
        return sum(not call.waits and call.link is not None for call in self._calls())

    def _calls(self) -> list[Call]:
        return [ticket for ticket in self._driver.tickets() if isinstance(ticket, Call)]

    # Before the queue ----------------------------------------------------------------------------

    def _call(self, request: Inbound, carrier: Carrier) -> Call:
        if self.draining:
            raise self._draining_error()
        now_ns, headers, path = self._driver.now_ns(), request.headers, request.path
        deadline_ns, never_wait, total_deadline_ns = self._terms.deadlines(headers, now_ns)
        if request.query and not _QUERY.fullmatch(request.query):
            raise ApiError("invalid_value", "the query string must be visible ASCII: percent-encode it")
        content_type = "" if path in JSON_PATHS else headers.value(_CONTENT_TYPE) or ""
        reads = self._reads or self._prices is not None
        facts = inspect(path, content_type, request.body, self._width_max, reads)
        pool = self._nodes.pool_of(facts.model, _own_path(path))
        if pool is None:
            raise self.unknown(facts.model, path)
        user = self._identity.user(headers, request.peer_ip, facts.body_user)
        tier = self._terms.tier(headers, user)
        target = f"{path}?{request.query}" if request.query else path
        passed = for_node(headers, request.request_id)
        outgoing = Outgoing(request.request_id, path, target, passed, request.body, facts.model, facts.stream)
        call = Call(self._surroundings, carrier, outgoing, now_ns)
        call.tier, call.team = tier, user.team
        call.pool, call.place = self._find_place(pool, call)
        call.user, call.user_name = user.key, user.name
        call.weight = self._terms.weight(user)
        call.cost = call.width = facts.width
        if self._prices is not None:
            call.bill = self._prices.bill(user.key, facts, self._nodes.context_of(facts.model))
            call.cost = call.bill.estimate
        elif self._reads:
            call.bill = policy.Reading(facts)
        call.size_bytes = facts.size_bytes
        call.deadline_ns = deadline_ns
        call.total_deadline_ns = total_deadline_ns
        call.never_wait = never_wait
        call.running_max = user.running_max
        # Who may not wait must not push out those who do.
        call.waiting_max = NEVER_WAIT if never_wait else user.waiting_max
        return call

    def _find_place(self, pool: int, call: Call) -> tuple[int, int]:
        try:
            return self._driver.find_place(pool, call.tier, call.team, call.outgoing.path in CHEAP_PATHS)
        except NoRoom as error:
            soon = retry_headers(self._driver.retry_soon_ms())
            message = f"more teams have requests than there is room for ({error}): try again soon"
            raise ApiError("overloaded", message, headers=soon) from None

    def unknown(self, model: str, path: str) -> ApiError:
        """Why no node can be asked for the model. path: "" if it is asked after by itself."""
        at = f" at {shown(path)}" if _own_path(path) else ""
        if self._nodes.any_never_answered:
            soon = retry_headers(self._driver.retry_soon_ms())
            message = (
                f"no node offers the model {shown(model)}{at} yet, but not every node has answered: try again soon"
            )
            return ApiError("model_loading", message, param="model", headers=soon)
        if at and self._nodes.pool_of(model) is not None:
            message = f"no node that serves the model {shown(model)} has the path {shown(path)} (nodes[].paths)"
            return ApiError("not_found", message, param="model")
        message = f"no node has ever offered the model {shown(model)}: see GET /v1/models for those there are"
        return ApiError("model_not_found", message, param="model")

    def _draining_error(self) -> ApiError:
        message = "the router is shutting down: send the request again, another instance or the next one will take it"
        return ApiError("draining", message, headers=retry_headers(self._driver.retry_soon_ms()))

    # At the queue's door -------------------------------------------------------------------------

    def _refused(self, call: Call, refusal: int) -> ApiError:
        queue = self._config.queue
        code = "queue_full"
        if refusal == USER_QUEUE_FULL:
            code = "user_queue_full"
            most = f"{queue.max_waiting_per_user} requests waiting"
            message = f"this user has {most}, the most one user may have (queue.max_waiting_per_user)"
        elif refusal == BYTES_FULL:
            message = (
                f"the requests that wait hold {queue.max_bytes} bytes together, the most they may (queue.max_bytes)"
            )
        else:
            message = f"{queue.max_waiting} requests wait, the most that may (queue.max_waiting)"
        call.error = self._full(call, code, message)
        self._meter.ended(call, "refused", 0, self._driver.now_ns())
        return call.error

    def _would_wait(self, call: Call) -> ApiError:
        """Nobody is to wait for it, and no slot is free."""
        error = self._full(call, "queue_full", f"no slot is free, and {policy.QUEUE_TIMEOUT} is 0: it may not wait")
        if not self._driver.has_usable_node(call.pool):
            error = call.no_node(f"no node that serves the model is usable, and {policy.QUEUE_TIMEOUT} is 0")
        call.withdraw("refused", error)
        return error

    def _full(self, call: Call, code: str, message: str) -> ApiError:
        driver, pool = self._driver, call.pool
        position = call.position or driver.position_refused(call)
        told = retry_headers(driver.retry_after_ms(pool, position))
        told |= place_headers(position, driver.estimated_wait_s(pool, position))
        return ApiError(code, f"{message}: come back after Retry-After", headers=told)


def _own_path(path: str) -> str:
    """A path that only those nodes have that are configured to; "" for all others."""
    return "" if path in INFERENCE_PATHS else path
