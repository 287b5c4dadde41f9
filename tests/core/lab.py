"""A scheduler with names: the shorthand in which the examples of this folder are written."""

from __future__ import annotations

from fairlead.core import scheduler as core


class Lab:
    """One scheduler, one or more pools, requests and users by name. A1 is user A's first request."""

    def __init__(self, scheduler, slots=(1,), pools=1, up=True):
        self.s = scheduler
        self.now = 0
        self.pools = [scheduler.add_pool(0) for _ in range(pools)]
        self.handles: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.running: list[str] = []
        self.where: dict[str, int] = {}
        self.nodes = [self.node(each, up=up) for each in slots]

    def node(self, slots, pools=None, up=True):
        node = self.s.add_node(self.now, slots)
        self.s.set_node_pools(self.now, node, self.pools if pools is None else pools)
        if up:
            self.s.set_node_state(self.now, node, core.UP)
        return node

    def submit(self, name, *, pool=None, weight=1, cost=1, width=1, size=0, deadline=core.NEVER, cap=0, limit=0):
        """name: one letter for the user, then anything."""
        pool = self.pools[0] if pool is None else pool
        handle = self.s.submit(self.now, pool, ord(name[0]), weight, cost, width, size, deadline, cap, limit)
        if handle > 0:
            self.handles[name] = handle
            self.names[handle] = name
        return handle

    def many(self, names, **options):
        for name in names.split():
            self.submit(name, **options)

    def drain(self):
        """What was decided: names of the dispatched, '!name' of the expired, '?name' of those without a node."""
        out = []
        for kind, handle, node in self.s.drain(self.now):
            name = self.names[handle]
            out.append({core.DISPATCHED: "", core.EXPIRED: "!", core.NO_NODE: "?"}[kind] + name)
            if kind == core.DISPATCHED:
                self.running.append(name)
                self.where[name] = node
        return out

    def finish(self, name, cost=1, outcome=core.COMPLETED):
        self.running.remove(name)
        assert self.s.finish(self.now, self.handles[name], outcome, cost)

    def serve(self, cost=lambda name: 1):
        """Serve until nothing waits, oldest dispatch ends first; the order of dispatch."""
        order = self.drain()
        while self.running:
            name = self.running[0]
            self.finish(name, cost(name))
            order += self.drain()
        return " ".join(order)

    def start(self, user, pool=None):
        """A user's virtual start in cost units."""
        pool = self.pools[0] if pool is None else pool
        return self.s.user(pool, ord(user))["virtual_start"] / core.VIRTUAL_UNIT
