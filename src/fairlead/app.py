"""The composition root: everything is built here once, started in order, and stopped in the order in which it is used.

Promise: after ``start`` the router serves; after ``stop`` nothing of it is left, no task, no timer, no connection.
There is no logic here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from fairlead.admin import Admin
from fairlead.clock import Clock, now_ns
from fairlead.config import Config
from fairlead.core import scheduler as core
from fairlead.driver import Driver
from fairlead.frontend import Frontend, Health
from fairlead.gateway import Gateway
from fairlead.listener import Inference, Limits, Listener
from fairlead.metrics import Exposition, Meter
from fairlead.nodes import Registry
from fairlead.places import Shape
from fairlead.policy import cost_unit
from fairlead.records import NONE, RequestLog

log = logging.getLogger(__name__)

ORDERS: Final = {"fifo": core.FIFO, "round_robin": core.FAIR, "wfq": core.FAIR, "token_wfq": core.FAIR}
OVERFLOWS: Final = {"reject": core.REJECT, "push_out": core.PUSH_OUT}
ROUTINGS: Final = {
    "score": core.SCORE,
    "score_raw": core.SCORE_RAW,
    "least_loaded": core.LEAST_LOADED,
    "p2c": core.P2C,
}
WITHIN_USER: Final = {"arrival": core.ARRIVAL, "deadline": core.DEADLINE}
# Twice what can be configured: each node, and each pool, has a twin for cheap requests.
NODES_MAX: Final = 2 * 1024
POOLS_MAX: Final = 2 * 256
GROUPS_MAX: Final = 2048
ADMIN_CONNECTIONS_MAX: Final = 256
_POLL_S: Final = 0.02


class Router:
    """One router. Not started twice."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        clock: Clock = now_ns,
        seed: int | None = None,
    ) -> None:
        loop = loop or asyncio.get_running_loop()
        self._config = config
        self.driver = make_driver(config, loop, clock, seed)
        target, policy = config.log.requests, config.queue.policy
        self.request_log = None if target == NONE else RequestLog(target, cost_unit(policy))
        self.meter = Meter(policy, config.users, self.request_log)
        self.registry = Registry(loop, config, self.driver)
        self.gateway = Gateway(config, self.driver, self.registry, self.meter)
        self.registry.moved = self.gateway.model_moved
        health = Health(self._why_not_ready)
        self._public = Listener(
            loop,
            Frontend(self.gateway, self.registry, health).handle,
            connection_limits(config, config.limits.connections),
            clock,
            Inference(self.gateway.paths, self.gateway.begin, self.gateway.reject),
        )
        self._admin: Listener | None = None
        if config.admin is not None:
            exposition = Exposition(self.meter, self.driver, self.registry)
            admin = Admin(config.admin[0], self.driver, self.gateway, self.meter, self.registry, exposition, health)
            limits = connection_limits(config, ADMIN_CONNECTIONS_MAX)
            self._admin = Listener(loop, admin.handle, limits, clock)

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where it listens: "public", and "admin" if there is one."""
        listeners = {"public": self._public, "admin": self._admin}
        return {name: each.address for name, each in listeners.items() if each is not None and each.address is not None}

    async def start(self) -> None:
        """Listen and ask the nodes. OSError: an address can't be had; LogError: the log can't. Nothing is left then."""
        try:
            if self.request_log is not None:
                self.request_log.open()
            if self._admin is not None and self._config.admin is not None:
                await self._admin.start(*self._config.admin)
            await self._public.start(*self._config.listen)
            await self.registry.start()
        except BaseException:
            await self.stop(0.0)
            raise

    async def stop(self, grace_s: float | None = None) -> None:
        """Take nothing new, send away what waits, give what runs the grace (timeouts.drain), then end it."""
        loop = asyncio.get_running_loop()
        if grace_s is None:
            grace_s = self._config.timeouts.drain_ns / 1e9
        self._public.stop_accepting()
        self._public.drain()
        self.gateway.drain()
        until = loop.time() + grace_s
        while self.gateway.running() and loop.time() < until:  # noqa: ASYNC110  once in a life
            await asyncio.sleep(_POLL_S)
        cut = self.gateway.give_up()
        if cut:
            log.warning("%d requests were still running after %g s and have been cut", cut, grace_s)
        await self._public.close()
        if self._admin is not None:
            await self._admin.close()
        await self.registry.stop()
        self.driver.close()
        if self.request_log is not None:
            await self.request_log.close()

    def _why_not_ready(self) -> str | None:
        if self.gateway.draining:
            return "draining"
        return None if self.registry.any_usable else "no usable node"


def connection_limits(config: Config, connections_max: int) -> Limits:
    timeouts = config.timeouts
    return Limits(
        connections=connections_max,
        head_ns=timeouts.head_ns,
        body_ns=timeouts.body_ns,
        keep_alive_ns=timeouts.keep_alive_ns,
        stall_ns=timeouts.write_stall_ns,
        head_bytes=config.limits.head,
        body_bytes=config.limits.body,
    )


def make_driver(config: Config, loop: asyncio.AbstractEventLoop, clock: Clock, seed: int | None) -> Driver:
    """The scheduler core with the limits of the configuration, in the driver's hands."""
    queue, routing = config.queue, config.routing
    # A connection carries one request at a time, so no more than those can be under way.
    running_max = config.limits.connections
    scheduler = core.Scheduler(
        waiting_max=queue.max_waiting,
        running_max=running_max,
        waiting_bytes_max=queue.max_bytes,
        nodes_max=NODES_MAX,
        pools_max=POOLS_MAX,
        groups_max=GROUPS_MAX,
        limits_max=POOLS_MAX + len(config.teams),
        order=ORDERS[queue.policy],
        within_user=WITHIN_USER[queue.within_user],
        overflow=OVERFLOWS[queue.overflow],
        routing=ROUTINGS[routing.policy],
        gpu_weight=routing.gpu_weight,
        queue_weight=routing.queue_weight,
        no_node_wait_ns=queue.no_node_wait_ns,
        seed=1 if seed is None else seed,
    )
    requests_max = queue.max_waiting + running_max + 1
    return Driver(loop, scheduler, clock, requests_max=requests_max, shape=Shape.of(config), seed=seed)
