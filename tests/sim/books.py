"""The ledger's books: requests, users, places, nodes; and which node is open to which pool, and what is due when.

A *place* is a pool or a group. A node is *open* while it is up and has a free slot. A request is *due* at its deadline,
or when its pool has had no usable node for so long that it is sent away.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from fairlead.core.scheduler import DOWN, NEVER, UP

WAITING, RUNNING, ENDED = "waiting", "running", "ended"


class Entry:
    """One request that the core holds, or has decided about and nobody was told yet."""

    __slots__ = (
        "deadline_ns",
        "decision",
        "due_from_ns",
        "due_ns",
        "handle",
        "node",
        "place",
        "queued_ns",
        "size_bytes",
        "state",
        "ticket",
        "tried",
        "user",
        "width",
    )


class User:
    __slots__ = ("limit", "running", "size_bytes", "waiting", "waiting_in", "weight")

    def __init__(self) -> None:
        self.limit = self.running = self.size_bytes = self.waiting = 0
        self.weight = 1
        self.waiting_in: dict[Place, int] = {}

    @property
    def at_limit(self) -> bool:
        return self.limit != 0 and self.running >= self.limit


class Place:
    """A pool or a group. waiting and running are with all that is below; ready: its own users that may go next."""

    __slots__ = (
        "down_since_ns",
        "entries",
        "groups",
        "limit",
        "nodes",
        "number",
        "open",
        "parent",
        "pool",
        "ready",
        "running",
        "usable",
        "waiting",
    )

    def __init__(self, number: int, parent: Place | None, now_ns: int) -> None:
        self.number = number
        self.parent = parent
        self.pool: Place = self if parent is None else parent.pool
        self.limit = self.waiting = self.running = self.ready = self.groups = 0
        # pools only
        self.nodes: dict[int, Node] = {}
        self.open = self.usable = 0
        self.down_since_ns: int | None = now_ns
        self.entries: dict[Entry, None] = {}

    def chain(self) -> Iterable[Place]:
        place: Place | None = self
        while place is not None:
            yield place
            place = place.parent

    @property
    def below_limits(self) -> bool:
        place: Place | None = self
        while place is not None:
            if place.limit and place.running >= place.limit:
                return False
            place = place.parent
        return True


class Node:
    __slots__ = ("handle", "is_open", "leases", "pools", "slots", "state", "used")

    def __init__(self, handle: int, slots: int) -> None:
        self.handle = handle
        self.slots = slots
        self.state = DOWN
        self.used = self.leases = 0
        self.is_open = False
        self.pools: list[Place] = []


class Books:
    """Places and nodes as they were changed, and the deadlines of what waits in them."""

    def __init__(self, no_node_wait_ns: int) -> None:
        self.places: dict[int, Place] = {}
        self.nodes: dict[int, Node] = {}
        self._no_node_wait_ns = no_node_wait_ns
        self._dues: list[tuple[int, int, Entry]] = []
        self._sequence = 0

    def add_place(self, now_ns: int, number: int, parent: int | None) -> None:
        assert number not in self.places, f"the place {number} was given twice"
        above = None if parent is None else self.places[parent]
        self.places[number] = Place(number, above, now_ns)
        if above is not None:
            above.groups += 1

    def remove_place(self, number: int) -> None:
        place = self.places.pop(number)
        assert not (place.waiting or place.running or place.groups or place.nodes), "a place in use was removed"
        if place.parent is not None:
            place.parent.groups -= 1

    def add_node(self, handle: int, slots: int) -> None:
        assert handle not in self.nodes, f"the node handle {handle:#x} was given twice"
        self.nodes[handle] = Node(handle, slots)

    def change_node(self, now_ns: int, handle: int, answer: bool, **changes: int) -> None:
        """slots, state, or neither: its load, which the ledger does not know."""
        node = self.nodes.get(handle)
        assert answer == (node is not None), f"node {handle:#x}: the scheduler answered {answer}"
        if node is None:
            return
        for pool in node.pools:
            pool.usable -= node.state == UP
        node.slots = changes.get("slots", node.slots)
        node.state = changes.get("state", node.state)
        for pool in node.pools:
            pool.usable += node.state == UP
        self.refresh(node)
        self._pools_changed(node.pools, now_ns)

    def set_node_pools(self, now_ns: int, handle: int, numbers: Iterable[int], answer: bool) -> None:
        """No numbers and a removal are the same to the pools."""
        node = self.nodes.get(handle)
        assert answer == (node is not None), f"node {handle:#x}: the scheduler answered {answer}"
        if node is None:
            return
        before = node.pools
        for pool in before:
            del pool.nodes[handle]
            pool.usable -= node.state == UP
            pool.open -= node.is_open
        node.pools = [self.places[number] for number in sorted(set(numbers))]
        for pool in node.pools:
            pool.nodes[handle] = node
            pool.usable += node.state == UP
            pool.open += node.is_open
        self._pools_changed([*before, *node.pools], now_ns)

    def remove_node(self, now_ns: int, handle: int, answer: bool) -> None:
        self.set_node_pools(now_ns, handle, (), answer)
        self.nodes.pop(handle, None)

    def refresh(self, node: Node) -> None:
        is_open = node.state == UP and node.used < node.slots
        if is_open != node.is_open:
            node.is_open = is_open
            for pool in node.pools:
                pool.open += 1 if is_open else -1

    def _pools_changed(self, pools: Iterable[Place], now_ns: int) -> None:
        for pool in pools:
            if (pool.usable == 0) != (pool.down_since_ns is not None):
                pool.down_since_ns = now_ns if pool.usable == 0 else None
                for entry in pool.entries:
                    self.schedule(entry, now_ns)

    # Deadlines -----------------------------------------------------------------------------------

    def schedule(self, entry: Entry, now_ns: int) -> None:
        """Its deadline, or when it has waited long enough for a node."""
        since_ns, due_ns = entry.place.pool.down_since_ns, entry.deadline_ns
        if since_ns is not None:
            due_ns = min(due_ns, max(since_ns, entry.queued_ns) + self._no_node_wait_ns)
        if due_ns != entry.due_ns:
            entry.due_ns = due_ns
            entry.due_from_ns = max(due_ns, now_ns)
            self._sequence += 1
            heapq.heappush(self._dues, (due_ns, self._sequence, entry))

    def next_due_ns(self) -> int:
        dues = self._dues
        while dues and (dues[0][2].state is not WAITING or dues[0][2].due_ns != dues[0][0]):
            heapq.heappop(dues)
        return dues[0][0] if dues else NEVER

    def first_due_from_ns(self) -> int:
        """When that deadline could be told first: later than it is, for one that came with it passed."""
        return self._dues[0][2].due_from_ns
