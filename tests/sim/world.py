"""A simulated router's day: clients, nodes and an operator around the real driver, all from one seed.

Clients are a closed crowd: each sends a request, waits for its end, rests, and sends the next; it may leave at any
moment. Nodes serve, some die with all that they run, are found out by a connect failure (from within on_dispatch, or
later) or by a probe, and come back, under the same handle or as a new one. The operator changes everything that can be
changed, and moves what waits. A request may do something to another one from within its own callback, and callbacks
may raise.
"""

from __future__ import annotations

from typing import Any

from fairlead.clock import MILLISECOND_NS as MS
from fairlead.core import scheduler as core
from fairlead.core.scheduler import CANCELLED, COMPLETED, DOWN, FAILED, UP
from fairlead.driver import Driver
from sim.fleet import MODELS, Fleet, Node, Planted
from sim.watch import LEASED, OVER, QUEUED
from sim.watched import WatchedTicket

REQUEUES_MAX = 2


class Client:
    def __init__(self, user: int, weight: int, running_max: int, waiting_max: int, model: str) -> None:
        self.user = user
        self.weight = weight
        self.running_max = running_max
        self.waiting_max = waiting_max
        self.model = model


class Request(WatchedTicket):
    def __init__(self, world: World, client: Client, pool: int, number: int) -> None:
        rng = world.rng
        self.world, self.watch, self.client, self.number = world, world.watch, client, number
        self.handle = 0
        self.pool = self.place = pool  # here a ticket's pool may be a group
        self.tier, self.team = 0, None
        self.user, self.weight, self.running_max = client.user, client.weight, client.running_max
        self.waiting_max = core.NEVER_WAIT if rng.random() < 0.04 else client.waiting_max
        self.cost = rng.choice((0, 1, 1, 1, 7, 500))
        self.width = rng.choice(world.plan.widths)
        self.size_bytes = rng.choice((0, 1, 10, 80))
        self.deadline_ns = world.deadline_ns()
        self.lease = 0  # which of its leases; what belongs to an earlier one comes too late
        self.requeues = 0
        self.node: Node | None = None
        self.due_ns = 0

    def __repr__(self) -> str:
        return f"#{self.number} user {self.user} place {self.pool}"

    def decided(self, kind: int, node: int) -> None:
        world, model = self.world, self.client.model
        if world.pools is None or not world.plan.exact_pools:
            return
        if kind == core.DISPATCHED:
            assert model in world.by_handle[node].models, f"{self} goes to a node that does not list {model!r}"
        elif kind == core.NO_NODE and self.entry is not None and self.entry.due_ns >= world.changed_ns:
            usable = [each.handle for each in world.nodes if each.state == UP and model in each.models]
            assert not usable, f"{self} is sent away for want of a node, but {usable} list {model!r}"

    def dispatched(self, node: int) -> None:
        self.lease += 1
        self.world.dispatched(self, node)

    def sent_away(self, kind: int) -> None:
        self.world.meddle(self, 0.05)

    def timed(self, now_ns: int) -> int:
        return self.world.timed(self, now_ns)

    def over(self) -> None:
        if self.node is not None:
            self.node.leased.pop(self, None)
        world = self.world
        world.rest(self.client, world.plan.rest_ns if self.lease else world.plan.sulk_ns)


class World(Fleet):
    def __init__(self, seed: int, base: type[Driver] = Driver) -> None:
        super().__init__(seed, base)
        rng, plan = self.rng, self.plan
        self.numbers = 0
        self.live: list[Request] = []  # with some that have ended; swept now and then
        weights = {user: rng.choice((1, 1, 2, 3, 16, 1000)) for user in range(plan.users)}
        self.clients = [self._client(number, weights) for number in range(plan.clients)]

    def _client(self, number: int, weights: dict[int, int]) -> Client:
        rng, plan = self.rng, self.plan
        user = number % plan.users
        running_max = rng.choice(plan.running_caps)
        return Client(user, weights[user], running_max, rng.choice(plan.waiting_caps), rng.choice(MODELS))

    def run(self) -> None:
        """Until so many events have been as are planned. Then everything ends, and nothing may be left."""
        for client in self.clients:
            self.loop.after_ns(self.rng.randrange(self.plan.arrival_ns), self.arrive, client)
        for fault in self.plan.faults:
            self._later(getattr(self, f"_{fault}"))
        callbacks = 0
        while self.watch.events < self.plan.events and self.loop.run_one():
            callbacks += 1
            assert callbacks < 100 * self.plan.events, "the world has gone quiet"
        self._end()

    def _end(self) -> None:
        self.ending = True
        self.clock.go_on()
        for ticket in self.driver.tickets():
            if ticket.told is QUEUED:
                self.driver.cancel(ticket)
            elif ticket.told is LEASED:
                self.driver.finish(ticket, FAILED, 0)
        self.watch.check_whole()
        counters = self.driver.counters()
        left = {name: counters[name] for name in ("waiting", "waiting_bytes", "running", "flows", "users")}
        assert not any(left.values()), f"when all had ended, there was {left}"
        self.driver.close()
        assert not self.loop.timers(), "a closed driver has a timer"
        assert all(isinstance(error, Planted) for error in self.loop.told)

    # Clients -------------------------------------------------------------------------------------

    def deadline_ns(self) -> int:
        kind = self.rng.random()
        if kind < 0.2:
            return core.NEVER
        now_ns = self.clock.reading
        if kind < 0.25:
            return now_ns + self.rng.randrange(-2, 3)
        return now_ns + int(self.rng.expovariate(1 / self.plan.patience_ns))

    def rest(self, client: Client, mean_ns: int) -> None:
        if not self.ending:
            self.loop.after_ns(mean_ns and int(self.rng.expovariate(1 / mean_ns)), self.arrive, client)

    def place_for(self, client: Client) -> int | None:
        if self.pools is not None:
            return self.pools.pool_of(client.model)
        return self.rng.choice(self.places) if self.places else None

    def arrive(self, client: Client) -> None:
        place = None if self.ending else self.place_for(client)
        if place is None:
            if not self.ending:
                self.loop.after_ns(self.plan.beat_ns, self.arrive, client)
            return
        self.numbers += 1
        request = Request(self, client, place, self.numbers)
        if self.driver.submit(request) < 0:
            self.rest(client, self.plan.sulk_ns)
            return
        self.live.append(request)
        if len(self.live) > 2 * len(self.clients) + 20:
            self.live = [each for each in self.live if each.told is not OVER]
        if request.told is QUEUED:
            if self.numbers % 8 == 0:
                self._look(request)
            if request.waiting_max == core.NEVER_WAIT:
                self.driver.cancel(request)
        if request.told is not OVER and "leaving" in self.plan.faults and self.rng.random() < 0.3:
            self.loop.after_ns(int(self.rng.expovariate(1 / self.plan.patience_ns)), self.leave, request)

    def _look(self, request: Request) -> None:
        """What the gateway asks for its answers."""
        place = self.driver.position(request)
        waiting = self.watch.ledger.places[request.pool].pool.waiting
        assert 1 <= place <= waiting, f"told place {place} of {waiting}"
        wait_s = self.driver.estimated_wait_s(request.pool, place)
        assert wait_s is None or wait_s >= 1

    def leave(self, request: Request) -> None:
        if request.told is QUEUED:
            self.driver.cancel(request)
        elif request.told is LEASED:
            self.driver.finish(request, CANCELLED, self.rng.randrange(request.cost + 1))

    # Nodes ---------------------------------------------------------------------------------------

    def dispatched(self, request: Request, handle: int) -> None:
        node = self.by_handle.get(handle)
        rng, lease = self.rng, request.lease
        roll = rng.random()
        request.node = node
        if node is None or not node.alive or roll < 0.03:
            if rng.random() < 0.5:
                self.out_of_reach(request, lease)
            else:
                self.loop.after_ns(rng.randrange(2 * self.plan.beat_ns), self.out_of_reach, request, lease)
            return
        node.leased[request] = None
        self.meddle(request, 0.04)
        if request.lease != lease or request.told is not LEASED:
            return
        if roll < 0.06:
            self.driver.finish(request, COMPLETED, rng.randrange(2 * request.cost + 1))
        elif roll < 0.09:
            self.break_down(request)
        elif roll < 0.11:
            self.requeue(request)
        else:
            self._serve(request, node)

    def break_down(self, request: Request) -> None:
        if "breaking" not in self.plan.faults:
            return self._serve(request, request.node)
        first = self.rng.randrange(4)
        if first == 1:
            self.driver.finish(request, COMPLETED, 1)
        elif first == 2:
            self.requeue(request)
        elif first == 3:
            self.driver.set_timer(request, self.clock.reading + self.rng.randrange(20 * MS))
        raise Planted(f"{request}")

    def _serve(self, request: Request, node: Any) -> None:
        now_ns, rng = self.clock.reading, self.rng
        service_ns = int(rng.expovariate(1 / node.service_ns)) * node.slow
        request.due_ns = now_ns + int(rng.expovariate(1 / (4 * node.service_ns)))
        self.driver.set_timer(request, request.due_ns)
        self.loop.after_ns(service_ns, self.served, request, request.lease)
        if rng.random() < 0.2:
            self.loop.after_ns(service_ns // 2, self.progress, request, request.lease)

    def progress(self, request: Request, lease: int) -> None:
        """Bytes came: mostly they leave their time behind, sometimes the timer is set anew, also to the past."""
        if request.lease != lease or request.told is not LEASED:
            return
        now_ns = self.clock.reading
        request.due_ns = now_ns + self.rng.randrange(-MS, 40 * MS)
        if self.rng.random() < 0.3:
            self.driver.set_timer(request, request.due_ns)

    def served(self, request: Request, lease: int) -> None:
        if request.lease == lease and request.told is LEASED:
            self.driver.finish(request, COMPLETED, self.rng.randrange(2 * request.cost + 2))

    def timed(self, request: Request, now_ns: int) -> int:
        self.meddle(request, 0.05)
        if request.told is not LEASED or request.due_ns > now_ns:
            return request.due_ns
        roll = self.rng.random()
        if roll < 0.6:
            self.driver.finish(request, FAILED, 0)
        elif roll < 0.7:
            self.requeue(request)
        elif roll < 0.75 and "breaking" in self.plan.faults:
            raise Planted(f"{request}")
        elif roll < 0.85:
            self.driver.set_timer(request, now_ns + self.rng.randrange(-MS, 20 * MS))
        else:
            return now_ns + self.rng.randrange(-MS, 20 * MS) if roll < 0.95 else 0
        return self.rng.choice((0, now_ns + MS))

    def out_of_reach(self, request: Request, lease: int) -> None:
        """A connection failed: the router takes the node out, the request goes back to its place, twice at most."""
        if request.lease != lease or request.told is not LEASED:
            return
        node = request.node
        if node is not None:
            node.leased.pop(request, None)
            if node.state == UP and self.by_handle.get(node.handle) is node:
                self.set_state(node, DOWN)
                self.loop.after_ns(self.plan.beat_ns, self.probe, node)
        if request.told is not LEASED or request.lease != lease:
            return
        request.requeues += 1
        if request.requeues > REQUEUES_MAX:
            self.driver.finish(request, FAILED, 0)
            return
        self.requeue(request)
        if request.told is QUEUED and request.waiting_max == core.NEVER_WAIT:
            self.driver.cancel(request)

    def requeue(self, request: Request) -> None:
        """To where its model is now, or away from a place that is being closed."""
        place = request.pool
        if self.rebuilding:
            self.driver.finish(request, FAILED, 0)
            return
        if self.pools is not None:
            place = self.pools.pool_of(request.client.model)
        elif place not in self.places and self.places:
            place = self.rng.choice(self.places)
        self.driver.requeue(request, place)

    # What happens to one from within another's callback ------------------------------------------

    def meddle(self, request: Request, chance: float) -> None:
        rng = self.rng
        if not self.live or self.rebuilding or rng.random() >= chance:
            return
        ledger = self.watch.ledger
        other = rng.choice(self.live)
        if ledger.undelivered and rng.random() < 0.5:  # somebody who is told next
            other = rng.choice([entry for entry in ledger.latest if entry.decision is not None]).ticket
        roll = rng.random()
        if other.told is QUEUED and roll < 0.6:
            self.driver.cancel(other)
        elif other.told is QUEUED:
            self.move(other)
        elif other.told is LEASED and roll < 0.4:
            self.driver.finish(other, FAILED, other.cost)
        elif other.told is LEASED and roll < 0.6:
            self.requeue(other)
        elif other.told is LEASED and roll < 0.7:
            self.driver.set_timer(other, self.clock.reading + rng.randrange(-MS, 20 * MS))
        elif roll < 0.9:
            self.arrive(other.client)
        elif self.nodes:
            node = rng.choice(self.nodes)
            self.set_state(node, rng.choice((DOWN, UP, UP)))
            self.loop.after_ns(self.plan.beat_ns, self._up_again, node)

    def move(self, request: Request) -> None:
        if self.pools is None and self.places:
            self.driver.move(request, self.rng.choice(self.places))

    # Faults, by the names that a plan has for them -----------------------------------------------

    def _leaving(self) -> None:
        """Somebody leaves right now, wherever it is. (Others have it in their plans; see arrive.)"""
        if self.live:
            self.leave(self.rng.choice(self.live))

    def _breaking(self) -> None:
        """Nothing by itself: see break_down and timed."""

    def _node_death(self) -> None:
        """With all that it runs. Found out by whom it is given next, or by a probe."""
        if not self.nodes:
            return
        node = self.rng.choice(self.nodes)
        if not node.alive:
            return
        node.alive = False
        for request in list(node.leased):
            self.loop.after_ns(self.rng.randrange(MS), self.lost, request, request.lease)
        self.loop.after_ns(self.rng.randrange(2 * self.plan.beat_ns), self.probe, node)
        self.loop.after_ns(self.rng.randrange(4 * self.plan.beat_ns), self._return, node)

    def lost(self, request: Request, lease: int) -> None:
        if self.rng.random() < 0.3:
            self.out_of_reach(request, lease)
        elif request.lease == lease and request.told is LEASED:
            self.driver.finish(request, FAILED, 0)

    def _return(self, node: Node) -> None:
        """A node comes back, known again or as somebody new while old leases still run."""
        if self.ending or self.by_handle.get(node.handle) is not node:
            return
        if self.rng.random() < 0.5:
            node.alive = True
            self.probe(node)
        else:
            self.remove_node(node)
            self.add_node(node)
