"""The scheduler in plain Python, obvious rather than fast: what scheduler.pyi means.

No heap, no index, no hand-made list: every question is answered by looking at everything. It is the specification
that the compiled core is compared with, call by call, so it shares nothing with it but the constants' names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

NEVER = 2**63 - 1
UNIT = 720720
QUEUE_FULL, USER_QUEUE_FULL, BYTES_FULL = -1, -2, -3
DISPATCHED, EXPIRED, NO_NODE, PUSHED_OUT = 1, 2, 3, 4
REJECT, PUSH_OUT = 0, 1
COMPLETED, CANCELLED, FAILED = 1, 2, 3
DOWN, UP, DRAINING = 0, 1, 2
FAIR, FIFO = 0, 1
ARRIVAL, DEADLINE = 0, 1
ROOT = -1
SCORE, SCORE_RAW, LEAST_LOADED, P2C = 0, 1, 2, 3


@dataclass(eq=False)
class Request:
    handle: int
    user: int
    place: int
    pool: int
    cost: int
    width: int
    size: int
    deadline: int
    queued: int
    order: int
    weight: int = 0  # what it was charged at
    node: Node | None = None
    tried: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    handle: int
    slots: int
    chosen: int
    state: int = DOWN
    gpu: float = -1.0
    others: int = 0
    running: int = 0
    leases: int = 0
    pools: frozenset[int] = frozenset()


@dataclass(eq=False)
class Share:
    """A user in a pool or group, which has a queue, or a pool or group, which has a virtual time."""

    weight: int
    start: int = 0
    stamp: int = 0
    eligible: bool = False
    running: int = 0
    queue: list[Request] = field(default_factory=list)
    # pools and groups
    parent: int = ROOT
    pool: int = ROOT
    rank: int = 0
    limit: int = 0
    virtual_time: int = 0
    promote_after: int | None = None  # strict: not None
    unpromoted: int = 0


class Model:
    def __init__(
        self,
        *,
        waiting_max,
        running_max,
        waiting_bytes_max=NEVER,
        flows_max=0,
        nodes_max=256,
        pools_max=64,
        groups_max=0,
        limits_max=0,
        decisions_max=256,
        order=FAIR,
        within_user=ARRIVAL,
        overflow=REJECT,
        routing=SCORE,
        gpu_weight=0.3,
        queue_weight=0.7,
        no_node_wait_ns=NEVER,
        rebase_at=1 << 60,
        seed=1,
    ):
        self.waiting_max, self.running_max, self.waiting_bytes_max = waiting_max, running_max, waiting_bytes_max
        self.nodes_max, self.pools_max, self.decisions_max = nodes_max, pools_max, decisions_max
        self.order, self.routing, self.no_node_wait = order, routing, no_node_wait_ns
        self.gpu_weight, self.queue_weight, self.rebase_at = gpu_weight, queue_weight, rebase_at
        self.now = 0
        self.sequence = 0
        self.choices = 0
        self.handles = 0
        self.groups_max, self.by_deadline = groups_max, within_user == DEADLINE
        self.places: dict[int, Share] = {ROOT: Share(1)}
        self.down_since: dict[int, int | None] = {}
        self.flows: dict[tuple[int, int], Share] = {}
        self.limits_max = limits_max
        self.limits: dict[int, int] = {}  # shared by places: number -> running_max
        self.user_limits: dict[int, int] = {}
        self.weights: dict[int, int] = {}
        self.came: dict[int, int] = {}
        self.push_out = overflow == PUSH_OUT
        self.evicted: list[Request] = []
        self.nodes: list[Node] = []
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.count = dict.fromkeys(
            (
                "received",
                "refused_queue_full",
                "refused_user_queue_full",
                "refused_bytes_full",
                "dispatched",
                "requeued",
                "completed",
                "cancelled",
                "cancelled_waiting",
                "failed",
                "expired",
                "no_node",
                "pushed_out",
            ),
            0,
        )

    # Time, pools, groups, limits, nodes

    def _at(self, now):
        if now < self.now:
            raise ValueError(f"now_ns is {now}, but was {self.now} before")
        self.now = now

    def _pools(self):
        return [place for place, share in self.places.items() if share.parent == ROOT and place != ROOT]

    def _need_place(self, place):
        if place == ROOT or place not in self.places or self.places[place].promote_after is not None:
            raise ValueError(f"place is {place}: there is no such place, or it is strict")

    def _need_pool(self, pool):
        if pool not in self._pools():
            raise ValueError(f"pool is {pool}: there is no such pool")

    def _need_limit(self, limit):
        if limit not in self.limits:
            raise ValueError(f"limit is {limit}: there is no such limit")

    def add_limit(self, now, running_max):
        self._at(now)
        limit = min(set(range(1, self.limits_max + 1)) - set(self.limits), default=None)
        if limit is None:
            raise ValueError(f"there are {self.limits_max} limits already, which is limits_max")
        self.limits[limit] = running_max
        return limit

    def set_limit(self, now, limit, running_max):
        self._at(now)
        self._need_limit(limit)
        self.limits[limit] = running_max
        self._refresh_limit(limit)

    def remove_limit(self, now, limit):
        self._at(now)
        self._need_limit(limit)
        if self._places_of(limit):
            raise ValueError(f"limit {limit} has places: remove them first")
        del self.limits[limit]

    def _places_of(self, limit):
        return sorted(place for place, share in self.places.items() if share.limit == limit)

    def _running_under(self, limit):
        return sum(any(self.places[place].limit == limit for place in self._chain(r.place)) for r in self.running)

    def add_pool(self, now, weight=1, limit=0):
        self._at(now)
        if limit:
            self._need_limit(limit)
        pool = min(set(range(self.pools_max)) - set(self.places), default=None)
        if pool is None:
            raise ValueError(f"there are {self.pools_max} pools already")
        self.places[pool] = Share(weight, start=self.places[ROOT].virtual_time, pool=pool, limit=limit)
        self.down_since[pool] = now
        return pool

    def remove_pool(self, now, pool):
        self._at(now)
        self._need_pool(pool)
        busy = [r for r in self.waiting + self.running if r.pool == pool] or [n for n in self.nodes if pool in n.pools]
        if busy or self._groups(pool):
            raise ValueError(f"pool {pool} must be empty")
        del self.places[pool], self.down_since[pool]

    def _groups(self, place):
        """The levels directly below one."""
        return [p for p, share in self.places.items() if share.parent == place and p != ROOT]

    def add_group(self, now, parent, weight=1, rank=0, limit=0):
        self._at(now)
        if parent == ROOT or parent not in self.places:
            raise ValueError(f"parent is {parent}: there is no such place")
        if limit:
            self._need_limit(limit)
            if limit in [self.places[place].limit for place in self._chain(parent)]:
                raise ValueError(f"limit is {limit}, which counts all in {parent} already")
        group = min(set(range(self.pools_max, self.pools_max + self.groups_max)) - set(self.places), default=None)
        if group is None:
            raise ValueError(f"there are {self.groups_max} groups already, which is groups_max")
        above = self.places[parent]
        rest = {"parent": parent, "pool": above.pool, "rank": rank, "limit": limit}
        self.places[group] = Share(weight, start=above.virtual_time, **rest)
        return group

    def remove_group(self, now, group):
        self._at(now)
        if group < self.pools_max or group not in self.places:
            raise ValueError(f"group is {group}: there is no such group")
        if self._busy(group) or self._groups(group):
            raise ValueError(f"group {group} must be empty")
        del self.places[group]

    def set_weight(self, now, place, weight):
        self._at(now)
        if place == ROOT or place not in self.places:
            raise ValueError(f"place is {place}: there is no such place")
        self.places[place].weight = weight

    def set_strict(self, now, pool, promote_after):
        self._at(now)
        self._need_pool(pool)
        if self._busy(pool):
            raise ValueError(f"pool {pool} has requests: it must be empty to become strict")
        self.places[pool].promote_after = promote_after

    def _within(self, place, top):
        """Is a place the same as another, or below it?"""
        while place not in (top, ROOT):
            place = self.places[place].parent
        return place == top

    def _busy(self, place):
        return any(self._within(r.place, place) for r in self.waiting + self.running)

    def _chain(self, place):
        """A place and those above it, without the root."""
        while place != ROOT:
            yield place
            place = self.places[place].parent

    def add_node(self, now, slots):
        self._at(now)
        if len(self.nodes) == self.nodes_max:
            raise ValueError(f"there are {self.nodes_max} nodes already")
        self.handles += 1
        self.choices += 1
        self.nodes.append(Node(self.handles, slots, self.choices))
        return self.handles

    def _node(self, handle):
        return next((node for node in self.nodes if node.handle == handle), None)

    def remove_node(self, now, handle):
        self._at(now)
        node = self._node(handle)
        if node is None:
            return False
        self.nodes.remove(node)
        self._pools_changed(node.pools)
        return True

    def set_node_pools(self, now, handle, pools):
        self._at(now)
        for pool in pools:
            self._need_pool(pool)
        node = self._node(handle)
        if node is None:
            return False
        touched = node.pools | frozenset(pools)
        node.pools = frozenset(pools)
        self._pools_changed(touched)
        return True

    def _set(self, now, handle, **changes):
        self._at(now)
        node = self._node(handle)
        if node is None:
            return False
        for name, value in changes.items():
            setattr(node, name, value)
        self._pools_changed(node.pools)
        return True

    def set_node_state(self, now, handle, state):
        return self._set(now, handle, state=state)

    def set_node_slots(self, now, handle, slots):
        return self._set(now, handle, slots=slots)

    def set_node_load(self, now, handle, gpu_load, others):
        return self._set(now, handle, gpu=min(gpu_load, 1.0), others=others)

    def _members(self, pool):
        return [node for node in self.nodes if pool in node.pools]

    def _open(self, pool):
        return [node for node in self._members(pool) if node.state == UP and node.running < node.slots]

    def _pools_changed(self, pools):
        """Ascending: the order decides stamps, hence ties."""
        for pool in sorted(pools):
            self._refresh_place(pool)
            usable = any(node.state == UP for node in self._members(pool))
            if usable:
                self.down_since[pool] = None
            elif self.down_since[pool] is None:
                self.down_since[pool] = self.now

    # Eligibility: the only place where a virtual start is lifted

    def _user_below_limit(self, user):
        limit = self.user_limits.get(user, 0)
        return limit == 0 or sum(r.user == user for r in self.running) < limit

    def _refresh_flow(self, place, user):
        flow = self.flows[place, user]
        eligible = bool(flow.queue) and self._user_below_limit(user)
        if eligible and not flow.eligible:
            flow.start = max(flow.start, self.places[place].virtual_time)
            self.sequence += 1
            flow.stamp = self.sequence
        if eligible != flow.eligible:
            flow.eligible = eligible
            self._refresh_place(place)

    def _refresh_user(self, user):
        for place in sorted(place for place, its in self.flows if its == user):
            self._refresh_flow(place, user)

    def _children(self, place):
        """What competes below a place: users, and groups or pools."""
        return [f for (p, _), f in self.flows.items() if p == place] + [self.places[p] for p in self._groups(place)]

    def _below_limit(self, place):
        limit = self.places[place].limit
        running_max = self.limits[limit] if limit else 0
        return running_max == 0 or self._running_under(limit) < running_max

    def _refresh_limit(self, limit):
        for place in self._places_of(limit):
            self._refresh_place(place)

    def _refresh_limits(self, place):
        """More or less runs in a place: all places of its limits, and of those above, may be in or out."""
        for each in self._chain(place):
            if self.places[each].limit:
                self._refresh_limit(self.places[each].limit)

    def _refresh_place(self, place):
        if place == ROOT:
            return
        share = self.places[place]
        eligible = (
            any(child.eligible for child in self._children(place))
            and self._below_limit(place)
            and (share.parent != ROOT or bool(self._open(place)))
        )
        if eligible and not share.eligible:
            share.start = max(share.start, self.places[share.parent].virtual_time)
            self.sequence += 1
            share.stamp = self.sequence
        if eligible != share.eligible:
            share.eligible = eligible
            self._refresh_place(share.parent)

    def _settle(self):
        """Forget flows that say nothing; end busy periods."""
        for place, share in self.places.items():
            busy = self._busy(place)
            for key in [key for key in self.flows if key[0] == place]:
                flow = self.flows[key]
                if not flow.queue and not flow.running and (not busy or flow.start <= share.virtual_time):
                    del self.flows[key]
            if not busy:
                share.virtual_time = 0
                for group in self._groups(place):
                    self.places[group].start = 0
        users = {user for _, user in self.flows}
        for table in (self.user_limits, self.weights, self.came):
            for user in set(table) - users:
                del table[user]

    # Requests

    def submit(self, now, place, user, weight, cost, width, size, deadline, user_running_max, user_waiting_max):
        self._at(now)
        self._need_place(place)
        pool = self.places[place].pool
        self.count["received"] += 1
        user_waiting = sum(r.user == user for r in self.waiting)
        flow = self.flows.get((place, user))
        at_once = (
            bool(self._open(pool))
            and not any(child.eligible for child in self._children(pool))
            and all(self._below_limit(p) for p in self._chain(place))
            and len(self.running) < self.running_max
            and (user_running_max == 0 or sum(r.user == user for r in self.running) < user_running_max)
            and not (flow and flow.queue)
        )
        held = len(self.waiting) + len(self.running) + len(self.evicted)
        no_slot = held == self.waiting_max + self.running_max + self.push_out
        reason = 0
        if user_waiting_max > 0 and user_waiting >= user_waiting_max:
            reason = USER_QUEUE_FULL
        elif len(self.waiting) >= self.waiting_max or no_slot:
            reason = QUEUE_FULL
        elif sum(r.size for r in self.waiting) + size > self.waiting_bytes_max:
            reason = BYTES_FULL
        if (
            reason in (QUEUE_FULL, BYTES_FULL)
            and not no_slot
            and not at_once
            and user_waiting_max >= 0
            and self._make_way(user, weight, size)
        ):
            reason = 0
            flow = self.flows.get((place, user))
        if reason and (no_slot or not at_once):
            names = {QUEUE_FULL: "queue_full", USER_QUEUE_FULL: "user_queue_full", BYTES_FULL: "bytes_full"}
            self.count["refused_" + names[reason]] += 1
            return reason
        if flow is None:
            flow = self.flows[place, user] = Share(weight, start=self.places[place].virtual_time)
        flow.weight = weight
        self.user_limits[user] = user_running_max
        self.weights[user] = weight
        if user not in self.came:
            self.sequence += 1
            self.came[user] = self.sequence
        self._refresh_user(user)
        self.handles += 1
        self.sequence += 1
        request = Request(self.handles, user, place, pool, cost, width, size, deadline, now, self.sequence)
        flow.queue.append(request)
        self._sort(flow)
        self.waiting.append(request)
        self._refresh_flow(place, user)
        return request.handle

    def _sort(self, flow):
        flow.queue.sort(key=lambda r: (r.deadline, r.order) if self.by_deadline else r.order)

    def _make_way(self, user, weight, size):
        """Push out as many as must go for this newcomer; False: it has no right to that, and nobody goes."""

        def count(who):
            return sum(r.user == who for r in self.waiting)

        def size_of(who):
            return sum(r.size for r in self.waiting if r.user == who)

        def full():
            return len(self.waiting) >= self.waiting_max

        def bytes_full():
            return sum(r.size for r in self.waiting) + size > self.waiting_bytes_max

        total = sum(self.weights[each] for each in {r.user for r in self.waiting} - {user}) + weight
        if not self.push_out or size > self.waiting_bytes_max:
            return False
        if full() and not count(user) * total < self.waiting_max * weight:
            return False
        if bytes_full() and not (size_of(user) + size) * total <= self.waiting_bytes_max * weight:
            return False
        while self.waiting and (full() or bytes_full()):
            part = count if full() else size_of
            users = {r.user for r in self.waiting}
            victim = max(users, key=lambda each: (Fraction(part(each), self.weights[each]), self.came[each]))
            tails = [f.queue[-1] for (_, who), f in self.flows.items() if who == victim and f.queue]
            request = max(tails, key=lambda r: r.order)
            self._take_out(request)
            self._settle()
            self.evicted.append(request)
            self.count["pushed_out"] += 1
        return True

    def _deadline(self, request):
        since = self.down_since[request.pool]
        if since is None:
            return request.deadline
        return min(request.deadline, max(since, request.queued) + self.no_node_wait)

    def drain(self, now):
        self._at(now)
        decisions = []
        while self.evicted and len(decisions) < self.decisions_max:
            decisions.append((PUSHED_OUT, self.evicted.pop(0).handle, 0))
        while len(decisions) < self.decisions_max:
            due = [r for r in self.waiting if self._deadline(r) <= now]
            if not due:
                break
            request = min(due, key=lambda r: (self._deadline(r), r.order))
            kind = EXPIRED if request.deadline <= now else NO_NODE
            self.count["expired" if kind == EXPIRED else "no_node"] += 1
            self._take_out(request)
            self._settle()
            decisions.append((kind, request.handle, 0))
        if self.evicted or any(self._deadline(r) <= now for r in self.waiting):
            return decisions
        while len(decisions) < self.decisions_max and len(self.running) < self.running_max:
            if not any(self.places[pool].eligible for pool in self._pools()):
                break
            decisions.append(self._dispatch())
        return decisions

    def _key(self, share, parent):
        """Smallest goes first, without regard to promotion."""
        if parent.promote_after is not None and share.parent != ROOT:
            return share.rank, share.stamp
        if self.order == FIFO:
            return self._next(share, promote=False).order, share.stamp
        return share.start, share.stamp

    def _next(self, share, promote=True):
        """The request that goes next below a user, group, pool or the root."""
        place = next((p for p, each in self.places.items() if each is share), None)
        if place is None:
            return share.queue[0]
        ready = [child for child in self._children(place) if child.eligible]
        if promote and share.promote_after is not None and share.unpromoted >= 3:
            aged = [r for r in map(self._next, ready) if self.now - r.queued >= share.promote_after]
            if aged:
                return min(aged, key=lambda r: r.order)
        return self._next(min(ready, key=lambda child: self._key(child, share)), promote)

    def _score(self, node):
        gpu, load = 0.5 if node.gpu < 0 else node.gpu, node.running + node.others
        if self.routing == SCORE_RAW:
            return int((gpu * 0.3) * 100 + (load * 0.7) * 10)
        ratio = load / node.slots if node.slots else 1.0
        if self.routing == LEAST_LOADED:
            return int(ratio * 1e9 + 0.5)
        return int((self.gpu_weight * gpu + self.queue_weight * min(ratio, 1.0)) * 1e9 + 0.5)

    def _dispatch(self):
        request = self._next(self.places[ROOT])
        flow = self.flows[request.place, request.user]
        regular = {
            p: min((c for c in self._children(p) if c.eligible), key=lambda c, p=p: self._key(c, self.places[p]))
            for p in self._chain(request.place)
            if self.places[p].promote_after is not None
        }
        candidates = self._open(request.pool)
        fresh = [node for node in candidates if node not in request.tried[-2:]]
        node = min(fresh or candidates, key=lambda n: (self._score(n), n.chosen))
        flow.queue.remove(request)
        self.waiting.remove(request)
        self.running.append(request)
        flow.running += 1
        flow.eligible = bool(flow.queue) and self._user_below_limit(request.user)
        request.weight = flow.weight
        child = flow
        for place in [*self._chain(request.place), ROOT]:
            share = self.places[place]
            if share.promote_after is not None:
                share.unpromoted = share.unpromoted + 1 if regular[place] is child else 0
            share.virtual_time = max(share.virtual_time, child.start)
            child.start += UNIT * request.cost // child.weight
            self.sequence += 1
            child.stamp = self.sequence
            self._rebase(place)
            child = share
        for place in self._chain(request.place):
            self._refresh_place(place)
        self._refresh_user(request.user)
        self._refresh_limits(request.place)
        self.choices += 1
        node.chosen = self.choices
        node.running += request.width
        node.leases += 1
        request.node = node
        self._pools_changed(node.pools)
        self._settle()
        self.count["dispatched"] += 1
        return DISPATCHED, request.handle, node.handle

    def _rebase(self, place):
        """Forget first: a flow that virtual time has passed is gone before the zero moves."""
        self._settle()
        share = self.places[place]
        if share.virtual_time > self.rebase_at:
            for child in self._children(place):
                child.start -= share.virtual_time
            share.virtual_time = 0

    def _shares(self, request):
        """Its user's and those of all places above."""
        return [self.flows[request.place, request.user], *(self.places[p] for p in self._chain(request.place))]

    def _correct(self, request, cost):
        for share in self._shares(request):
            weight = share.weight if share.pool != ROOT else request.weight
            share.start += UNIT * cost // weight - UNIT * request.cost // weight

    def _find(self, handle, where):
        return next((r for r in where if r.handle == handle), None)

    def _release(self, request):
        node = request.node
        request.node = None
        node.running -= request.width
        node.leases -= 1
        if node in self.nodes:
            self._pools_changed(node.pools)

    def finish(self, now, handle, outcome, cost):
        self._at(now)
        request = self._find(handle, self.running)
        if request is None:
            return False
        self.count[{COMPLETED: "completed", CANCELLED: "cancelled", FAILED: "failed"}[outcome]] += 1
        self._correct(request, cost)
        self.running.remove(request)
        self.flows[request.place, request.user].running -= 1
        self._refresh_limits(request.place)
        self._refresh_user(request.user)
        self._release(request)
        self._settle()
        return True

    def _take_out(self, request):
        self.waiting.remove(request)
        self.flows[request.place, request.user].queue.remove(request)
        self._refresh_flow(request.place, request.user)

    def cancel(self, now, handle):
        self._at(now)
        request = self._find(handle, self.evicted)
        if request is not None:
            self.evicted.remove(request)
            return True
        request = self._find(handle, self.waiting)
        if request is None:
            return False
        self.count["cancelled"] += 1
        self.count["cancelled_waiting"] += 1
        self._take_out(request)
        self._settle()
        return True

    def requeue(self, now, handle):
        self._at(now)
        request = self._find(handle, self.running)
        if request is None:
            return False
        self._correct(request, 0)
        flow = self.flows[request.place, request.user]
        request.tried.append(request.node)
        request.queued = now
        self.running.remove(request)
        flow.running -= 1
        self.waiting.append(request)
        flow.queue.append(request)
        self._sort(flow)
        self._refresh_limits(request.place)
        self._refresh_user(request.user)
        self._release(request)
        for share in self._shares(request):
            share.stamp = min(share.stamp, request.order)
        self.count["requeued"] += 1
        return True

    def move(self, now, handle, place):
        self._at(now)
        self._need_place(place)
        request = self._find(handle, self.waiting)
        if request is None:
            return False
        if request.place == place:
            return True
        old = self.flows[request.place, request.user]
        debt = old.start - self.places[request.place].virtual_time
        flow = self.flows.get((place, request.user))
        if flow is None:
            start = self.places[place].virtual_time + max(debt, 0)
            flow = self.flows[place, request.user] = Share(old.weight, start=start)
        if not flow.queue and not flow.running:
            flow.weight = old.weight
        old.queue.remove(request)
        self._refresh_flow(request.place, request.user)
        request.place, request.pool = place, self.places[place].pool
        request.queued = now
        flow.queue.append(request)
        self._sort(flow)
        self._refresh_flow(place, request.user)
        self._settle()
        return True

    # Looking

    def next_deadline_ns(self):
        return min((self._deadline(r) for r in self.waiting), default=NEVER)

    def position(self, handle):
        request = self._find(handle, self.waiting)
        if request is None:
            return 0
        flow = self.flows[request.place, request.user]
        return self._turn_of_pool(request.place, flow, flow.queue.index(request) + 1, 0)

    def position_if(self, place, user, weight, deadline):
        self._need_place(place)
        flow = self.flows.get((place, user), Share(weight))
        before = [r for r in flow.queue if not self.by_deadline or r.deadline <= deadline]
        was, flow.weight = flow.weight, weight
        try:
            return self._turn_of_pool(place, flow, len(before) + 1, 1)
        finally:
            flow.weight = was

    def _turn_of_pool(self, place, child, k, newcomers):
        """The turn of the pool that is the k-th of a child of the place, if so many more requests were waiting."""
        if self.order == FIFO:
            pool = self.places[place].pool
            return sum(r.pool == pool for r in self.waiting) + newcomers
        for level in self._chain(place):
            share = self.places[level]
            if share.promote_after is not None:
                before = [p for p in self._groups(level) if self.places[p].rank < child.rank]
                k += sum(self._within(r.place, p) for r in self.waiting for p in before)
            else:
                weight = sum(each.weight for each in self._children(level) if each.eligible and each is not child)
                weight += child.weight
                waiting = sum(self._within(r.place, level) for r in self.waiting) + newcomers
                k = min(waiting, -(-k * weight // child.weight))
            child = share
        return k

    def counters(self):
        refused = sum(self.count[name] for name in self.count if name.startswith("refused_"))
        return self.count | {
            "refused": refused,
            "waiting": len(self.waiting),
            "waiting_bytes": sum(r.size for r in self.waiting),
            "running": len(self.running),
            "flows": len(self.flows),
            "users": len({user for _, user in self.flows}),
        }

    def pool(self, pool):
        self._need_pool(pool)
        eligible = [child for child in self._children(pool) if child.eligible]
        return {
            "waiting": sum(r.pool == pool for r in self.waiting),
            "running": sum(r.pool == pool for r in self.running),
            "nodes": len(self._members(pool)),
            "usable": sum(node.state == UP for node in self._members(pool)),
            "open": len(self._open(pool)),
            "virtual_time": self.places[pool].virtual_time,
            "eligible_users": len(eligible),
            "eligible_weight": sum(f.weight for f in eligible),
        }

    def node(self, handle):
        node = self._node(handle)
        if node is None:
            return {}
        return {
            "state": node.state,
            "slots": node.slots,
            "running": node.running,
            "leases": node.leases,
            "others": node.others,
            "score": self._score(node),
            "chosen": node.chosen,
        }

    def group(self, group):
        if group < self.pools_max or group not in self.places:
            raise ValueError(f"group is {group}: there is no such group")
        share = self.places[group]
        eligible = [child for child in self._children(group) if child.eligible]
        return {
            "waiting": sum(self._within(r.place, group) for r in self.waiting),
            "running": sum(self._within(r.place, group) for r in self.running),
            "weight": share.weight,
            "virtual_start": share.start,
            "virtual_time": share.virtual_time,
            "eligible": len(eligible),
            "eligible_weight": sum(child.weight for child in eligible),
        }

    def limit(self, limit):
        self._need_limit(limit)
        running, places = self._running_under(limit), len(self._places_of(limit))
        return {"running": running, "running_max": self.limits[limit], "places": places}

    def user(self, place, user):
        self._need_place(place)
        flow = self.flows.get((place, user))
        if flow is None:
            return {}
        running = flow.running
        return {"waiting": len(flow.queue), "running": running, "virtual_start": flow.start, "weight": flow.weight}

    def check(self):
        counters = self.counters()
        ended = (
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
        assert counters["received"] == sum(counters[name] for name in ended)
