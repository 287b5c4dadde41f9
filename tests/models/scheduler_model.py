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
SCORE, SCORE_RAW, LEAST_LOADED, P2C = 0, 1, 2, 3


@dataclass(eq=False)
class Request:
    handle: int
    user: int
    pool: int
    cost: int
    width: int
    size: int
    deadline: int
    queued: int
    order: int
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
    """A user in a pool, or a pool under the root: what is charged, and the queue below it."""

    weight: int
    start: int = 0
    stamp: int = 0
    virtual_time: int = 0
    eligible: bool = False
    queue: list[Request] = field(default_factory=list)
    running: int = 0


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
        decisions_max=256,
        order=FAIR,
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
        self.root_time = 0
        self.pools: dict[int, Share] = {}
        self.down_since: dict[int, int | None] = {}
        self.flows: dict[tuple[int, int], Share] = {}
        self.limits: dict[int, int] = {}
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

    # Time, pools, nodes

    def _at(self, now):
        if now < self.now:
            raise ValueError(f"now_ns is {now}, but was {self.now} before")
        self.now = now

    def _need_pool(self, pool):
        if pool not in self.pools:
            raise ValueError(f"pool is {pool}: there is no such pool")

    def add_pool(self, now, weight=1):
        self._at(now)
        pool = min(set(range(self.pools_max)) - set(self.pools), default=None)
        if pool is None:
            raise ValueError(f"there are {self.pools_max} pools already")
        self.pools[pool] = Share(weight, start=self.root_time)
        self.down_since[pool] = now
        return pool

    def remove_pool(self, now, pool):
        self._at(now)
        self._need_pool(pool)
        busy = [r for r in self.waiting + self.running if r.pool == pool] or [n for n in self.nodes if pool in n.pools]
        if busy:
            raise ValueError(f"pool {pool} must be empty")
        del self.pools[pool], self.down_since[pool]

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
            self._refresh_pool(pool)
            usable = any(node.state == UP for node in self._members(pool))
            if usable:
                self.down_since[pool] = None
            elif self.down_since[pool] is None:
                self.down_since[pool] = self.now

    # Eligibility: the only place where a virtual start is lifted

    def _user_below_limit(self, user):
        limit = self.limits.get(user, 0)
        return limit == 0 or sum(r.user == user for r in self.running) < limit

    def _refresh_flow(self, pool, user):
        flow = self.flows[pool, user]
        eligible = bool(flow.queue) and self._user_below_limit(user)
        if eligible and not flow.eligible:
            flow.start = max(flow.start, self.pools[pool].virtual_time)
            self.sequence += 1
            flow.stamp = self.sequence
        flow.eligible = eligible
        self._refresh_pool(pool)

    def _refresh_user(self, user):
        for pool in sorted(pool for pool, its in self.flows if its == user):
            self._refresh_flow(pool, user)

    def _refresh_pool(self, pool):
        share = self.pools[pool]
        eligible = any(f.eligible for (p, _), f in self.flows.items() if p == pool) and bool(self._open(pool))
        if eligible and not share.eligible:
            share.start = max(share.start, self.root_time)
            self.sequence += 1
            share.stamp = self.sequence
        share.eligible = eligible

    def _settle(self):
        """Forget flows that say nothing; end busy periods."""
        for pool, share in self.pools.items():
            busy = any(r.pool == pool for r in self.waiting + self.running)
            for key in [key for key in self.flows if key[0] == pool]:
                flow = self.flows[key]
                if not flow.queue and not flow.running and (not busy or flow.start <= share.virtual_time):
                    del self.flows[key]
            if not busy:
                share.virtual_time = 0
        if not self.waiting and not self.running:
            self.root_time = 0
            for share in self.pools.values():
                share.start = 0
        users = {user for _, user in self.flows}
        for table in (self.limits, self.weights, self.came):
            for user in set(table) - users:
                del table[user]

    # Requests

    def submit(self, now, pool, user, weight, cost, width, size, deadline, user_running_max, user_waiting_max):
        self._at(now)
        self._need_pool(pool)
        self.count["received"] += 1
        user_waiting = sum(r.user == user for r in self.waiting)
        flow = self.flows.get((pool, user))
        at_once = (
            bool(self._open(pool))
            and not any(f.eligible for (p, _), f in self.flows.items() if p == pool)
            and len(self.running) < self.running_max
            and (user_running_max == 0 or sum(r.user == user for r in self.running) < user_running_max)
            and not (flow and flow.queue)
        )
        held = len(self.waiting) + len(self.running) + len(self.evicted)
        no_slot = held == self.waiting_max + self.running_max + self.push_out
        reason = 0
        if user_waiting_max and user_waiting >= user_waiting_max:
            reason = USER_QUEUE_FULL
        elif len(self.waiting) >= self.waiting_max or no_slot:
            reason = QUEUE_FULL
        elif sum(r.size for r in self.waiting) + size > self.waiting_bytes_max:
            reason = BYTES_FULL
        if reason in (QUEUE_FULL, BYTES_FULL) and not no_slot and not at_once and self._make_way(user, weight, size):
            reason = 0
            flow = self.flows.get((pool, user))
        if reason and (no_slot or not at_once):
            names = {QUEUE_FULL: "queue_full", USER_QUEUE_FULL: "user_queue_full", BYTES_FULL: "bytes_full"}
            self.count["refused_" + names[reason]] += 1
            return reason
        if flow is None:
            flow = self.flows[pool, user] = Share(weight, start=self.pools[pool].virtual_time)
        flow.weight = weight
        self.limits[user] = user_running_max
        self.weights[user] = weight
        if user not in self.came:
            self.sequence += 1
            self.came[user] = self.sequence
        self._refresh_user(user)
        self.handles += 1
        self.sequence += 1
        request = Request(self.handles, user, pool, cost, width, size, deadline, now, self.sequence)
        flow.queue.append(request)
        self.waiting.append(request)
        self._refresh_flow(pool, user)
        return request.handle

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
            request = max((r for r in self.waiting if r.user == victim), key=lambda r: r.order)
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
            pools = [pool for pool, share in self.pools.items() if share.eligible]
            if not pools:
                break
            decisions.append(self._dispatch(pools))
        return decisions

    def _next(self, pools):
        if self.order == FIFO:
            heads = [f.queue[0] for (p, _), f in self.flows.items() if p in pools and f.eligible]
            return min(heads, key=lambda r: r.order)
        pool = min(pools, key=lambda p: (self.pools[p].start, self.pools[p].stamp))
        flows = [f for (p, _), f in self.flows.items() if p == pool and f.eligible]
        return min(flows, key=lambda f: (f.start, f.stamp)).queue[0]

    def _score(self, node):
        gpu, load = 0.5 if node.gpu < 0 else node.gpu, node.running + node.others
        if self.routing == SCORE_RAW:
            return int((gpu * 0.3) * 100 + (load * 0.7) * 10)
        ratio = load / node.slots if node.slots else 1.0
        if self.routing == LEAST_LOADED:
            return int(ratio * 1e9 + 0.5)
        return int((self.gpu_weight * gpu + self.queue_weight * min(ratio, 1.0)) * 1e9 + 0.5)

    def _dispatch(self, pools):
        request = self._next(pools)
        flow, pool = self.flows[request.pool, request.user], self.pools[request.pool]
        candidates = self._open(request.pool)
        fresh = [node for node in candidates if node not in request.tried[-2:]]
        node = min(fresh or candidates, key=lambda n: (self._score(n), n.chosen))
        flow.queue.remove(request)
        self.waiting.remove(request)
        self.running.append(request)
        flow.running += 1
        pool.virtual_time = max(pool.virtual_time, flow.start)
        flow.start += UNIT * request.cost // flow.weight
        self.sequence += 1
        flow.stamp = self.sequence
        flow.eligible = bool(flow.queue) and self._user_below_limit(request.user)
        self._rebase(pool, [f for (p, _), f in self.flows.items() if p == request.pool])
        self.root_time = max(self.root_time, pool.start)
        pool.start += UNIT * request.cost // pool.weight
        self.sequence += 1
        pool.stamp = self.sequence
        if self.root_time > self.rebase_at:
            for share in self.pools.values():
                share.start -= self.root_time
            self.root_time = 0
        self._refresh_pool(request.pool)
        self._refresh_user(request.user)
        self.choices += 1
        node.chosen = self.choices
        node.running += request.width
        node.leases += 1
        request.node = node
        self._pools_changed(node.pools)
        self._settle()
        self.count["dispatched"] += 1
        return DISPATCHED, request.handle, node.handle

    def _rebase(self, pool, flows):
        """Forget first: a flow that virtual time has passed is gone before the zero moves."""
        self._settle()
        if pool.virtual_time > self.rebase_at:
            for flow in flows:
                flow.start -= pool.virtual_time
            pool.virtual_time = 0

    def _correct(self, request, cost):
        for share in (self.flows[request.pool, request.user], self.pools[request.pool]):
            share.start += UNIT * cost // share.weight - UNIT * request.cost // share.weight

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
        self.flows[request.pool, request.user].running -= 1
        self._refresh_user(request.user)
        self._release(request)
        self._settle()
        return True

    def _take_out(self, request):
        self.waiting.remove(request)
        self.flows[request.pool, request.user].queue.remove(request)
        self._refresh_flow(request.pool, request.user)

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
        flow = self.flows[request.pool, request.user]
        request.tried.append(request.node)
        request.queued = now
        self.running.remove(request)
        flow.running -= 1
        self.waiting.append(request)
        flow.queue.append(request)
        flow.queue.sort(key=lambda r: r.order)
        self._refresh_user(request.user)
        self._release(request)
        for share in (flow, self.pools[request.pool]):
            share.stamp = min(share.stamp, request.order)
        self.count["requeued"] += 1
        return True

    def move(self, now, handle, pool):
        self._at(now)
        self._need_pool(pool)
        request = self._find(handle, self.waiting)
        if request is None:
            return False
        if request.pool == pool:
            return True
        old = self.flows[request.pool, request.user]
        debt = old.start - self.pools[request.pool].virtual_time
        flow = self.flows.get((pool, request.user))
        if flow is None:
            start = self.pools[pool].virtual_time + max(debt, 0)
            flow = self.flows[pool, request.user] = Share(old.weight, start=start)
        if not flow.queue and not flow.running:
            flow.weight = old.weight
        old.queue.remove(request)
        self._refresh_flow(request.pool, request.user)
        request.pool = pool
        request.queued = now
        flow.queue.append(request)
        flow.queue.sort(key=lambda r: r.order)
        self._refresh_flow(pool, request.user)
        self._settle()
        return True

    # Looking

    def next_deadline_ns(self):
        return min((self._deadline(r) for r in self.waiting), default=NEVER)

    def position(self, handle):
        request = self._find(handle, self.waiting)
        if request is None:
            return 0
        flow = self.flows[request.pool, request.user]
        weight = sum(f.weight for (p, _), f in self.flows.items() if p == request.pool and f.eligible)
        weight += 0 if flow.eligible else flow.weight
        place = flow.queue.index(request) + 1
        return min(sum(r.pool == request.pool for r in self.waiting), -(-place * weight // flow.weight))

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
        eligible = [f for (p, _), f in self.flows.items() if p == pool and f.eligible]
        return {
            "waiting": sum(r.pool == pool for r in self.waiting),
            "running": sum(r.pool == pool for r in self.running),
            "nodes": len(self._members(pool)),
            "usable": sum(node.state == UP for node in self._members(pool)),
            "open": len(self._open(pool)),
            "virtual_time": self.pools[pool].virtual_time,
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

    def user(self, pool, user):
        self._need_pool(pool)
        flow = self.flows.get((pool, user))
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
