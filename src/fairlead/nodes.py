"""The nodes: which there are, what each serves, and whether it is well.

Promise: a node that dies gets no more work from the moment its death is seen, and comes back by itself; nothing
here is ever on the way of a request. Each node has one task of its own, so a node that answers slowly delays
nobody.

Theory. A node's task recognises its engine, lists its models and finds its slots, then asks for health and load
once a period. A refused connection means that nobody is there: down at once. One slow or odd answer is not death
(llama.cpp is deaf while all its threads are busy): it takes ``unhealthy_after`` in a row. What comes back after a
failure may be another process, so it is recognised anew. The gateway reports what it could not connect; that is the
fastest sign there is.

The router's own count of slots is the gate, load only colours the choice. ``others`` is what an engine has from
elsewhere: its requests less our own, taken as the larger of before and after the scrape, so that our own are never
taken for others'. A load that is older than three periods is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

from fairlead.clock import SECOND_NS
from fairlead.config import Config, NodeConfig
from fairlead.core.scheduler import DOWN, DRAINING, UP
from fairlead.driver import Driver
from fairlead.engines import ENGINES, Engine, Load, Reply, context_told, load, model_list, recognise, slots_told
from fairlead.inspection import INFERENCE_PATHS
from fairlead.pools import Pools
from fairlead.probes import Health, Prober
from fairlead.upstream import IDLE_MIN, Endpoint, Pool
from fairlead.usage import Habits

log = logging.getLogger("fairlead.nodes")

MODELS_EVERY_NS: Final = 10 * SECOND_NS
STALE_PERIODS: Final = 3
STATES: Final = {DOWN: "down", UP: "up", DRAINING: "draining"}


class Node:
    """One configured node. handle is the core's, pool its connections."""

    def __init__(self, config: NodeConfig, handle: int, pool: Pool, slots: int) -> None:
        self.config = config
        self.handle = handle
        self.pool = pool
        self.set_slots(slots)
        self.engine: Engine | None = None  # None: to be recognised (again)
        self.kind = config.engine
        self.models: dict[str, dict[str, Any]] = {}
        self.habits = Habits(config.include_usage)
        self.answered = False  # ever
        self.up = False
        self.failures = 0
        self.successes = 0
        self.error = ""
        self.load: Load | None = None
        self.load_ns = 0
        self.models_ns = 0
        self.wake = asyncio.Event()  # probe now
        self.probed = asyncio.Event()  # once at least
        self.task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.config.name

    def set_slots(self, slots: int) -> None:
        self.slots = slots
        self.pool.idle_max = max(IDLE_MIN, slots)


class Registry:
    """All nodes. moved(model, path, pool): requests for a model, at a path of a node's own if there is one, belong in
    that pool of the core now."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: Config, driver: Driver) -> None:
        self.moved: Callable[[str, str, int], None] = lambda model, path, pool: None
        self._loop = loop
        self._config = config
        self._driver = driver
        self._health = config.health
        self._pools = Pools(driver, lambda offer, pool: self.moved(*offer, pool))
        self.pool_of = self._pools.pool_of
        self._nodes: dict[str, Node] = {}
        self.by_handle: dict[int, Node] = {}
        self._contexts: dict[str, int | None] = {}  # by model; filled as it is asked for
        self._prober: Prober | None = None
        self._ssl: ssl.SSLContext | None = None

    # What a request asks -------------------------------------------------------------------------

    def context_of(self, model: str) -> int | None:
        """Tokens that fit into a sequence of the model, where it has the most room; None: a node does not tell."""
        if model not in self._contexts:
            told = [context_told(node.models[model]) for node in self._nodes.values() if model in node.models]
            known = [context for context in told if context is not None]
            self._contexts[model] = max(known) if known and len(known) == len(told) else None
        return self._contexts[model]

    @property
    def any_never_answered(self) -> bool:
        return any(not node.answered for node in self._nodes.values())

    @property
    def any_usable(self) -> bool:
        return any(node.up for node in self._nodes.values())

    def report_connect_failure(self, node: Node) -> None:
        """A request could not connect: the node gets nothing more until a probe finds it well."""
        if self._nodes.get(node.name) is node:
            self._fail(node, "a request could not connect", at_once=True)
            node.wake.set()

    # What an operator asks -----------------------------------------------------------------------

    def handles(self) -> Iterable[tuple[str, int]]:
        return [(node.name, node.handle) for node in self._nodes.values()]

    def nodes(self) -> list[Node]:
        return list(self._nodes.values())

    def models_of(self, pool: int) -> list[str]:
        return self._pools.models_of(pool)

    def models(self) -> list[dict[str, Any]]:
        """The union of what the nodes list, as GET /v1/models has it; of two entries the first node's stands."""
        union: dict[str, dict[str, Any]] = {}
        for node in self._nodes.values():
            for model, entry in node.models.items():
                union.setdefault(model, entry)
        return list(union.values())

    def describe(self) -> list[dict[str, Any]]:
        """Everything that is known of each node, but for its key."""
        return [self._describe(node) for node in self._nodes.values()]

    def _describe(self, node: Node) -> dict[str, Any]:
        numbers = self._driver.node_numbers(node.handle)
        return {
            "name": node.name,
            "url": node.config.url,
            "engine": node.kind or "unknown",
            "state": STATES[numbers["state"]],
            "slots": numbers["slots"],
            "in_flight": numbers["leases"],
            "slots_in_use": numbers["running"],
            "cheap_in_flight": numbers["cheap_leases"],
            "others": numbers["others"],
            "gpu_load": node.load.gpu if node.load else None,
            "score": numbers["score"] / 1e9,
            "models": sorted(node.models),
            "error": node.error,
            "connections": {"open": node.pool.open, "idle": node.pool.idle, "dials": node.pool.dials},
        }

    # Life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up the configured nodes and wait until each was asked once, however it answered."""
        self._prober = Prober(self._health.timeout_ns)
        for config in self._config.nodes:
            self.add(config)
        await asyncio.gather(*(node.probed.wait() for node in self._nodes.values()))

    def add(self, config: NodeConfig) -> Node:
        """Take up a node. ValueError: its name is taken, or there are as many as there can be."""
        if config.name in self._nodes:
            raise ValueError(f"there is a node {config.name!r} already")
        if config.url.startswith("https") and self._ssl is None:
            self._ssl = ssl.create_default_context()
        endpoint = Endpoint.from_url(config.url, api_key=config.api_key, ssl_context=self._ssl)
        slots = config.slots or ENGINES[config.engine or "openai"].slots_default
        handle = self._driver.add_node(slots)
        node = Node(config, handle, Pool(self._loop, endpoint, connect_ns=self._config.timeouts.connect_ns), slots)
        self._nodes[config.name] = node
        self.by_handle[handle] = node
        node.task = self._loop.create_task(self._watch(node), name=f"node {config.name}")
        return node

    async def remove(self, name: str) -> None:
        """Forget a node. What runs there runs on, and can't touch a node that comes under the same name."""
        node = self._nodes.pop(name)
        self._contexts.clear()
        self._driver.remove_node(node.handle)
        self._rebuild()
        await self._end(node)
        del self.by_handle[node.handle]

    async def stop(self) -> None:
        """Ask nobody any more and keep no connection. Exchanges under way are their callers' to end."""
        for node in self._nodes.values():
            await self._end(node)
        if self._prober is not None:
            await self._prober.close()
            self._prober = None

    async def _end(self, node: Node) -> None:
        if node.task is not None:
            node.task.cancel()
            await asyncio.gather(node.task, return_exceptions=True)
            node.task = None
        node.pool.close()

    # Watching one node ---------------------------------------------------------------------------

    async def _watch(self, node: Node) -> None:
        period_s = self._health.period_ns / 1e9
        while True:
            try:
                await self._probe(node)
            except Exception:
                # A defect of ours with one node's answers must not end the watch over it.
                log.exception("node %s: a probe failed in an unforeseen way", node.name)
                self._fail(node, "the router failed on this node's answer; see its log", at_once=False)
            node.probed.set()
            try:
                async with asyncio.timeout(period_s):
                    await node.wake.wait()
            except TimeoutError:
                continue
            node.wake.clear()

    async def _probe(self, node: Node) -> None:
        prober, now_ns = self._prober, self._driver.now_ns()
        assert prober is not None
        if node.load is not None and now_ns - node.load_ns > STALE_PERIODS * self._health.period_ns:
            self._forget_load(node)
        if node.engine is None and not await self._recognise(node, prober):
            return
        engine = node.engine
        assert engine is not None
        health, reason = await prober.health(node.config, engine)
        if health is not Health.GOOD:
            self._fail(node, reason, at_once=health in (Health.GONE, Health.LOADING))
            return
        if now_ns - node.models_ns >= MODELS_EVERY_NS:
            reply, _ = await prober.fetch(node.config, "/v1/models")
            self._list_models(node, reply)
        await self._scrape(node, engine, prober)
        self._succeed(node)

    async def _recognise(self, node: Node, prober: Prober) -> bool:
        """Find out what answers there. False: nothing does, or nothing that lists models."""
        config = node.config
        first, reason = await prober.fetch(config, "/v1/models")
        if first.status == 0:
            self._fail(node, "connection refused" if reason == "refused" else reason, at_once=reason == "refused")
            return False
        rest = [prober.fetch(config, path) for path in ("/metrics", "/props", "/api/version")]
        others = [reply for reply, _ in await asyncio.gather(*rest)]
        kind = config.engine or recognise(first, *others)
        engine = ENGINES[kind]
        if model_list(first) is None:
            self._fail(
                node, f"GET /v1/models is no list of models (status {first.status})", at_once=first.status == 503
            )
            return False
        node.engine, node.kind = engine, kind
        node.habits = Habits(config.include_usage, engine.usage_per_choice)
        await self._find_slots(node, engine, prober)
        self._list_models(node, first)
        return True

    async def _find_slots(self, node: Node, engine: Engine, prober: Prober) -> None:
        if node.config.slots is not None:
            return
        told = None
        for path in engine.slots_paths:
            reply, _ = await prober.fetch(node.config, path)
            told = slots_told(engine, reply)
            if told is not None:
                break
        slots = told or engine.slots_default
        if slots != node.slots or not node.answered:
            source = "as it says" if told else f"the default for {engine.title}"
            log.info("node %s: %s, %d slots (%s; set with slots: N)", node.name, engine.title, slots, source)
        node.set_slots(slots)
        self._driver.set_node_slots(node.handle, slots)

    def _list_models(self, node: Node, reply: Reply) -> None:
        models = model_list(reply)
        if models is None:
            return  # what it listed before stands
        node.models_ns = self._driver.now_ns()
        changed = set(models) != set(node.models)
        node.models = models
        self._contexts.clear()
        if not node.answered or changed:
            node.answered = True
            log.info("node %s: serves %s", node.name, ", ".join(sorted(models)) or "nothing")
            self._rebuild()

    async def _scrape(self, node: Node, engine: Engine, prober: Prober) -> None:
        if engine.metrics is None:
            return
        before = self._driver.node_numbers(node.handle).get("running", 0)
        reply, _ = await prober.fetch(node.config, engine.metrics)
        told = load(engine, reply)
        if told is None:
            return  # what it told before stands until it is too old
        own = max(before, self._driver.node_numbers(node.handle).get("running", 0))
        node.load, node.load_ns = told, self._driver.now_ns()
        others = max(0, told.running + told.waiting - own)
        self._driver.set_node_load(node.handle, -1.0 if told.gpu is None else told.gpu, others)

    def _forget_load(self, node: Node) -> None:
        node.load = None
        self._driver.set_node_load(node.handle, -1.0, 0)

    def _succeed(self, node: Node) -> None:
        node.failures = 0
        node.successes += 1
        if not node.up and node.successes >= self._health.healthy_after:
            node.up = True
            log.info("node %s: up", node.name)
            self._driver.set_node_state(node.handle, UP)
        if node.up:
            node.error = ""

    def _fail(self, node: Node, reason: str, *, at_once: bool) -> None:
        node.successes = 0
        node.failures += 1
        node.error = reason
        if not at_once and node.failures < self._health.unhealthy_after:
            return
        node.engine = None  # who answers next may be another
        if node.up:
            node.up = False
            log.warning("node %s: down: %s", node.name, reason)
            self._driver.set_node_state(node.handle, DOWN)
        if node.load is not None:
            self._forget_load(node)

    def _rebuild(self) -> None:
        self._pools.rebuild((node.handle, node.models, extra_paths(node.config)) for node in self._nodes.values())


def extra_paths(config: NodeConfig) -> list[str]:
    """A node's own paths, without those that are every node's."""
    return [path for path in config.paths if path not in INFERENCE_PATHS]
