"""The nodes of a simulated router, the driver over them, and the operator who changes everything that can be changed.

There are two kinds of world. Of *models*: the nodes list models and the real Pools makes pools of them. Of *places*: a
tree of pools and groups, some strict, which requests are sent to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from fairlead.clock import MILLISECOND_NS as MS
from fairlead.core.scheduler import DOWN, DRAINING, NEVER, UP
from fairlead.driver import Driver
from fairlead.pools import Offer, Pools
from sim.plan import Plan
from sim.virtual_loop import VirtualClock, VirtualLoop
from sim.watch import QUEUED, Watch
from sim.watched import WatchedScheduler, watched

MODELS = "abcdef"


class Planted(Exception):
    """What a callback raises on purpose."""


class Node:
    """A machine. state: what the router takes it for; alive: whether anybody is there."""

    def __init__(self, handle: int, slots: int, service_ns: int) -> None:
        self.handle = handle
        self.slots = slots
        self.service_ns = service_ns
        self.state = DOWN
        self.alive = True
        self.slow = 1
        self.models = ""
        self.pools: list[int] = []
        self.leased: dict[Any, None] = {}  # requests that it works on


class Fleet:
    def __init__(self, seed: int, base: type[Driver]) -> None:
        self.plan = plan = Plan(seed)
        self.rng = random.Random(seed)
        self.clock = VirtualClock(plan.step_ns)
        self.loop = VirtualLoop(self.clock, self._early_ns, Planted)
        self.watch = watch = Watch(self.clock, self.loop, plan.still_ns_max)
        scheduler = WatchedScheduler(plan.limits)
        scheduler.watch = watch
        watch.scheduler, watch.ledger = scheduler, scheduler.ledger
        self.driver: Any = watched(base)(
            self.loop,
            scheduler,
            self.clock,
            requests_max=plan.requests_max,
            decisions_max=plan.limits["decisions_max"],
            seed=seed,
        )
        self.driver.watch = watch
        watch.driver = self.driver
        self.ending = False
        self.rebuilding = False  # then callbacks neither submit nor put back: nobody's does, and pools are in between
        self.changed_ns = 0  # when a node was last seen to list or to be something else
        self.nodes: list[Node] = []
        self.by_handle: dict[int, Node] = {}
        self.places: list[int] = []  # where requests may go
        self.groups: list[int] = []
        self.pools = Pools(self.driver, self._model_moved) if plan.models else None
        if self.pools is None:
            for _ in range(plan.pools):
                self.add_pool()
        for _ in range(plan.nodes):
            self.add_node()

    def _early_ns(self) -> int:
        if not self.plan.early or self.rng.random() < 0.5:
            return 0
        return self.rng.randrange(3 * MS)

    def _later(self, action: Callable[[], object]) -> None:
        """An action of the world, again and again, at random times."""

        def act() -> None:
            if not self.ending:
                action()
                self._later(action)

        self.loop.after_ns(int(self.rng.expovariate(1 / self.plan.beat_ns)), act)

    # Nodes ---------------------------------------------------------------------------------------

    def set_state(self, node: Node, state: int) -> None:
        node.state = state
        self.changed_ns = self.clock.reading
        self.driver.set_node_state(node.handle, state)

    def probe(self, node: Node) -> None:
        """What the registry finds out once a period."""
        if self.ending or self.by_handle.get(node.handle) is not node:
            return
        if node.alive and node.state == DOWN:
            self.set_state(node, UP)
        elif not node.alive and node.state == UP:
            self.set_state(node, DOWN)

    def _slow_node(self) -> None:
        if self.nodes:
            node = self.rng.choice(self.nodes)
            node.slow = 1 if node.slow > 1 else self.rng.choice((3, 30))

    def _standing_clock(self) -> None:
        if self.clock.still_ns is None:
            self.clock.stop()
            still_ns = self.rng.randrange(1, self.plan.still_ns_max)
            self.loop.after_ns(still_ns, self.clock.go_on)

    def _reconfiguration(self) -> None:
        rng = self.rng
        actions: list[Callable[[], object]] = [self._change_node, self._change_node, self._change_pools]
        if self.pools is None:
            actions += [self._change_places, self._move_some]
        rng.choice(actions)()

    def add_node(self, like: Node | None = None) -> None:
        if len(self.nodes) >= self.plan.limits["nodes_max"]:
            return
        rng, plan = self.rng, self.plan
        slots = rng.choice(plan.slots)
        node = Node(self.driver.add_node(slots), slots, plan.service_ns)
        self.nodes.append(node)
        self.by_handle[node.handle] = node
        if self.pools is not None:
            self.offer(node, like.models if like is not None else self._some_models(len(self.nodes) == 1))
        else:
            self.join(node, like.pools if like is not None else None)
        self.set_state(node, UP)

    def remove_node(self, node: Node) -> None:
        self.nodes.remove(node)
        del self.by_handle[node.handle]
        self.driver.remove_node(node.handle)
        if self.pools is not None:
            self._rebuild()

    def _change_node(self) -> None:
        rng = self.rng
        if not self.nodes or rng.random() < 0.1:
            self.add_node()
            return
        node = rng.choice(self.nodes)
        roll = rng.random()
        if roll < 0.35:
            self.driver.set_node_slots(node.handle, rng.choice((0, *self.plan.slots)))
            self.loop.after_ns(self.plan.beat_ns, self._slots_again, node)
        elif roll < 0.6:
            self.driver.set_node_load(node.handle, rng.choice((-1.0, rng.random())), rng.randrange(4))
        elif roll < 0.9:
            self.set_state(node, rng.choice((UP, DRAINING, DOWN)))
            self.loop.after_ns(self.plan.beat_ns, self._up_again, node)
        elif len(self.nodes) > 1:
            self.remove_node(node)

    def _slots_again(self, node: Node) -> None:
        if not self.ending and self.by_handle.get(node.handle) is node:
            self.driver.set_node_slots(node.handle, node.slots)

    def _up_again(self, node: Node) -> None:
        if not self.ending and self.by_handle.get(node.handle) is node:
            self.set_state(node, UP)

    # Worlds of models ----------------------------------------------------------------------------

    def offer(self, node: Node, models: str) -> None:
        node.models = models
        self._rebuild()

    def _some_models(self, all_of_them: bool) -> str:
        return "".join(self.rng.sample(MODELS, len(MODELS) if all_of_them else self.rng.randint(0, 4)))

    def _rebuild(self) -> None:
        assert self.pools is not None
        self.changed_ns = self.clock.reading
        self.rebuilding = True
        self.pools.rebuild((node.handle, node.models, ()) for node in self.nodes)
        self.rebuilding = False

    def _model_moved(self, offer: Offer, pool: int) -> None:
        for request in self.driver.tickets():
            if request.told is QUEUED and request.client.model == offer[0] and request.pool != pool:
                self.driver.move(request, pool)

    def _change_pools(self) -> None:
        if self.nodes:
            node = self.rng.choice(self.nodes)
            if self.pools is None:
                self.join(node, None)
            else:
                self.offer(node, self._some_models(False))

    # Worlds of places ----------------------------------------------------------------------------

    def pool_numbers(self) -> list[int]:
        return [place.number for place in self.watch.ledger.places.values() if place.parent is None]

    def join(self, node: Node, pools: list[int] | None) -> None:
        rng, there = self.rng, self.pool_numbers()
        if pools is not None:
            node.pools = [pool for pool in pools if pool in there]
        elif "reconfiguration" in self.plan.faults and rng.random() < 0.2:
            node.pools = rng.sample(there, rng.randint(0, len(there)))
        else:
            node.pools = there
        self.driver.set_node_pools(node.handle, node.pools)

    def add_pool(self) -> None:
        rng = self.rng
        if len(self.pool_numbers()) >= self.plan.limits["pools_max"]:
            return
        pool = self.driver.add_pool()
        shape = rng.random()
        if shape < 0.35:
            self.places.append(pool)
        elif shape < 0.7:
            self.add_group(pool)
            self.places.append(pool)
        else:
            self.driver.set_strict(pool, rng.choice((0, 5 * MS, NEVER)))
            for _ in range(2):
                self.add_group(pool)
        for node in self.nodes:
            if rng.random() < 0.7:
                node.pools.append(pool)
                self.driver.set_node_pools(node.handle, node.pools)

    def add_group(self, parent: int) -> None:
        rng = self.rng
        if len(self.groups) >= self.plan.limits["groups_max"]:
            return
        group = self.driver.add_group(parent, rng.choice((1, 4, 16)), rng.randrange(3))
        if rng.random() < 0.3:
            self.driver.set_limits(group, rng.choice((1, 5)), rng.choice((1, 3)))
        self.groups.append(group)
        self.places.append(group)

    def _change_places(self) -> None:
        rng = self.rng
        roll = rng.random()
        if roll < 0.2:
            self.add_pool()
        elif roll < 0.4:
            self.add_group(rng.choice(self.pool_numbers() + self.groups))
        elif roll < 0.6:
            place = rng.choice(self.pool_numbers() + self.groups)
            self.driver.set_limits(place, rng.choice((1, 2, 16)), rng.choice((0, 0, 1, 4)))
        elif len(self.places) > 1:
            self._close(rng.choice(self.places))

    def _close(self, number: int) -> None:
        """Nothing new for this place; what waits there goes elsewhere; when the last has ended, it is removed."""
        self.places.remove(number)
        place = self.watch.ledger.places[number]
        for request in self.driver.tickets():
            if request.told is QUEUED and request.pool == number and self.places:
                self.driver.move(request, self.rng.choice(self.places))
        self._free(number, place)

    def _free(self, number: int, place: Any) -> None:
        if self.ending or self.watch.ledger.places.get(number) is not place:
            return
        if place.waiting or place.running or place.groups:
            self.loop.after_ns(self.plan.beat_ns, self._free, number, place)
        elif place.parent is not None:
            self.groups.remove(number)
            self.driver.remove_group(number)
        else:
            for node in self.nodes:
                if number in node.pools:
                    node.pools.remove(number)
                    self.driver.set_node_pools(node.handle, node.pools)
            self.driver.remove_pool(number)

    def _move_some(self) -> None:
        tickets = self.driver.tickets()
        for request in self.rng.sample(tickets, min(5, len(tickets))):
            if request.told is QUEUED and self.places:
                self.driver.move(request, self.rng.choice(self.places))
