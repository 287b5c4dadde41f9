"""What the scheduler must hold, kept in plain Python from what it was asked and what it answered.

Independent: it shares nothing with the scheduler or the driver but the constants, and it knows the rules from
scheduler.pyi. It does not know who is next (tests/core and test_random_operations compare that order with a model); it
knows who may be, who must not wait, what must be refused, when each deadline is, and what every counter is.

Cost: O(1) per call, O(log n) for deadlines, O(waiting in a pool) when the pool loses its last usable node or gets its
first. An entry of the ledger is changed when the *core* changes, so it is right in the middle of a pump too;
``decision`` is what the core has decided and the driver has not told yet.

Who gives way when the room is full is the core's choice and known only from the next drain. Until then (only possible
while a pump is running) ``giving_way`` of the requests that the ledger calls waiting are not, and submit is not
predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairlead.core import scheduler as core
from sim.books import ENDED, RUNNING, WAITING, Books, Entry, Place, User

OUTCOMES = {core.COMPLETED: "completed", core.CANCELLED: "cancelled", core.FAILED: "failed"}
REFUSALS = {
    core.QUEUE_FULL: "refused_queue_full",
    core.USER_QUEUE_FULL: "refused_user_queue_full",
    core.BYTES_FULL: "refused_bytes_full",
}
SENT_AWAY = {core.EXPIRED: "expired", core.NO_NODE: "no_node", core.PUSHED_OUT: "pushed_out"}


class Ledger(Books):
    def __init__(self, limits: dict[str, Any], counters: Callable[[], dict[str, int]]) -> None:
        """limits: what the scheduler was made with. counters: the scheduler's own; asked only of who gave way."""
        super().__init__(limits["no_node_wait_ns"])
        self.waiting_max = limits["waiting_max"]
        self.running_max = limits["running_max"]
        self.bytes_max = limits["waiting_bytes_max"]
        self.push_out = limits.get("overflow", core.REJECT) == core.PUSH_OUT
        self.decisions_max = limits["decisions_max"]
        self._core_counters = counters
        self.count = dict.fromkeys(
            ("received", *REFUSALS.values(), "dispatched", "requeued", *OUTCOMES.values(), "cancelled_waiting"), 0
        ) | dict.fromkeys(SENT_AWAY.values(), 0)
        self.waiting = self.running = self.waiting_bytes = 0
        self.users_waiting = self.waiting_weight = 0
        self.giving_way = 0
        self.undelivered = 0
        self.latest: list[Entry] = []  # whom the last drain that decided something was about
        self.entries: dict[int, Entry] = {}
        self.users: dict[int, User] = {}
        self._ready: dict[int, Place] = {}

    # Requests ------------------------------------------------------------------------------------

    def expected_answer(
        self, place: int, user: int, weight: int, size_bytes: int, running_max: int, waiting_max: int
    ) -> int | None:
        """0: it must be taken. None: the ledger can't know."""
        if self.giving_way:
            return None
        it = self.users.get(user) or User()
        user_full = 0 < waiting_max <= it.waiting
        full = self.waiting >= self.waiting_max
        bytes_full = self.waiting_bytes + size_bytes > self.bytes_max
        no_room = self.waiting + self.running >= self.waiting_max + self.running_max + self.push_out
        if not no_room:
            if not (user_full or full or bytes_full) or self._starts_at_once(self.places[place], it, running_max):
                return 0
            may_push = self.push_out and waiting_max >= 0 and size_bytes <= self.bytes_max and not user_full
            if may_push and self._is_below_share(it, weight, size_bytes, full, bytes_full):
                return 0
        return core.USER_QUEUE_FULL if user_full else core.QUEUE_FULL if full or no_room else core.BYTES_FULL

    def _starts_at_once(self, place: Place, user: User, running_max: int) -> bool:
        pool = place.pool
        return (
            pool.open > 0
            and self.running < self.running_max
            and place.below_limits
            and not (running_max and user.running >= running_max)
            and not user.waiting_in.get(place)
            and not any(self._may_go(other) for other in self._ready.values() if other.pool is pool)
        )

    def _may_go(self, place: Place) -> bool:
        """But for the pool's own limit and the nodes: is somebody in this place eligible?"""
        return all(not each.limit or each.running < each.limit for each in place.chain() if each.parent is not None)

    def _is_below_share(self, user: User, weight: int, size_bytes: int, full: bool, bytes_full: bool) -> bool:
        total = self.waiting_weight + weight - (user.weight if user.waiting else 0)
        if full and not user.waiting * total < self.waiting_max * weight:
            return False
        return not bytes_full or (user.size_bytes + size_bytes) * total <= self.bytes_max * weight

    def submitted(self, now_ns: int, ticket: Any, answer: int, expected: int | None) -> None:
        self.count["received"] += 1
        if expected is not None:
            told = min(answer, 0)
            assert told == expected, f"submit answered {answer}, but {expected or 'a handle'} is right"
        if answer < 0:
            self.count[REFUSALS[answer]] += 1
            return
        if self.push_out and (
            self.waiting >= self.waiting_max or self.waiting_bytes + ticket.size_bytes > self.bytes_max
        ):
            self.giving_way = self._core_counters()["pushed_out"] - self.count["pushed_out"]
        assert answer not in self.entries, f"the handle {answer:#x} was given twice"
        entry = Entry()
        entry.ticket, entry.handle, entry.place = ticket, answer, self.places[ticket.pool]
        entry.width, entry.size_bytes, entry.deadline_ns = ticket.width, ticket.size_bytes, ticket.deadline_ns
        entry.node, entry.decision, entry.tried, entry.due_ns = None, None, [], -1
        user = self.users.get(ticket.user)
        if user is None:
            user = self.users[ticket.user] = User()
        entry.user = user
        self.entries[answer] = ticket.entry = entry
        self._configure(user, ticket.weight, ticket.running_max)
        self._wait(entry, now_ns)

    def drained(self, now_ns: int, decisions: list[tuple[int, int, int]]) -> None:
        last = core.PUSHED_OUT
        if decisions:
            self.latest = []
        order = {core.PUSHED_OUT: 0, core.EXPIRED: 1, core.NO_NODE: 1, core.DISPATCHED: 2}
        for kind, handle, node in decisions:
            entry = self.entries.get(handle)
            assert entry is not None and entry.state is WAITING, f"decision {kind} about one that does not wait"
            assert order[kind] >= order[last], f"decision {kind} comes after {last}"
            last = kind
            self.latest.append(entry)
            if kind == core.DISPATCHED:
                self._dispatch(entry, node)
            else:
                self._send_away(entry, kind, now_ns)
            entry.decision = (kind, node)
            self.undelivered += 1
            entry.ticket.decided(kind, node)
        if len(decisions) < self.decisions_max:
            assert not self.giving_way, "drain did not report all that gave way"
            assert self.next_due_ns() > now_ns, "drain left something in the queue whose deadline has passed"
            self.check_conservation()

    def _dispatch(self, entry: Entry, handle: int) -> None:
        node, place, user = self.nodes.get(handle), entry.place, entry.user
        assert node is not None, f"dispatched to {handle:#x}, which is no node (any more)"
        assert node.state == core.UP, f"dispatched to node {handle:#x} in state {node.state}"
        assert place.pool in node.pools, f"dispatched from pool {place.pool.number} to a node that does not work for it"
        assert node.used < node.slots, f"dispatched to node {handle:#x} with {node.used} of {node.slots} slots in use"
        assert not user.at_limit, "dispatched for a user that is at its limit"
        assert place.below_limits, "dispatched from a place that is at its limit"
        assert self.running < self.running_max, "more than running_max run"
        if handle in entry.tried:
            others = [each for each in place.pool.nodes.values() if each.is_open and each.handle not in entry.tried]
            assert not others, "dispatched to a node that it came back from, though another has room"
        self._stop_waiting(entry)
        self._run(entry, 1)
        entry.state = RUNNING
        entry.node = handle
        node.used += entry.width
        node.leases += 1
        self.refresh(node)
        self.count["dispatched"] += 1

    def _send_away(self, entry: Entry, kind: int, now_ns: int) -> None:
        if kind == core.EXPIRED:
            assert entry.deadline_ns <= now_ns, f"expired {entry.deadline_ns - now_ns} ns too early"
        elif kind == core.NO_NODE:
            assert entry.place.pool.usable == 0, "no_node, but its pool has a usable node"
            assert entry.due_ns <= now_ns < entry.deadline_ns, "no_node at the wrong time"
        else:
            assert self.giving_way > 0, "more gave way than the core has counted"
            self.giving_way -= 1
        self._stop_waiting(entry)
        self.count[SENT_AWAY[kind]] += 1
        self._end(entry)

    def finished(self, handle: int, outcome: int, answer: bool) -> None:
        entry = self.entries.get(handle)
        running = entry is not None and entry.state is RUNNING
        assert answer == running, f"finish answered {answer}, but the request {'runs' if running else 'does not run'}"
        if entry is None or not running:
            return
        self.count[OUTCOMES[outcome]] += 1
        self._release(entry)
        self._end(entry)

    def cancelled(self, handle: int, answer: bool) -> None:
        entry = self.entries.get(handle)
        waits = entry is not None and entry.state is WAITING
        assert answer == waits, f"cancel answered {answer}, but the request {'waits' if waits else 'does not wait'}"
        if entry is None or not waits:
            return
        self._stop_waiting(entry)
        if self.giving_way and self._core_counters()["cancelled"] == self.count["cancelled"]:
            self.giving_way -= 1  # it had given way already
            self.count["pushed_out"] += 1
        else:
            self.count["cancelled"] += 1
            self.count["cancelled_waiting"] += 1
        self._end(entry)

    def requeued(self, now_ns: int, handle: int, answer: bool) -> None:
        entry = self.entries.get(handle)
        running = entry is not None and entry.state is RUNNING
        assert answer == running, f"requeue answered {answer}, but the request {'runs' if running else 'does not run'}"
        if entry is None or not running:
            return
        entry.tried = [entry.node, *entry.tried[:1]]
        self._release(entry)
        self._wait(entry, now_ns)
        self.count["requeued"] += 1

    def moved(self, now_ns: int, handle: int, number: int, answer: bool) -> None:
        entry = self.entries.get(handle)
        waits = entry is not None and entry.state is WAITING
        assert answer == waits or (waits and self.giving_way), f"move answered {answer}"
        if entry is not None and answer and entry.place.number != number:
            self._stop_waiting(entry)
            entry.place = self.places[number]
            self._wait(entry, now_ns)

    # What the above is made of -------------------------------------------------------------------

    def _end(self, entry: Entry) -> None:
        """The core holds it no more. A dispatch that was not told yet is not told then."""
        if entry.decision is not None:
            entry.decision = None
            self.undelivered -= 1
        entry.state = ENDED
        del self.entries[entry.handle]

    def _configure(self, user: User, weight: int, limit: int) -> None:
        was = user.at_limit
        if user.waiting:
            self.waiting_weight += weight - user.weight
        user.weight, user.limit = weight, limit
        self._limit_passed(user, was)

    def _limit_passed(self, user: User, was: bool) -> None:
        if user.at_limit != was:
            for place in user.waiting_in:
                self._set_ready(place, 1 if was else -1)

    def _set_ready(self, place: Place, change: int) -> None:
        place.ready += change
        if place.ready:
            self._ready[place.number] = place
        else:
            self._ready.pop(place.number, None)

    def _wait(self, entry: Entry, now_ns: int) -> None:
        user, place = entry.user, entry.place
        entry.state = WAITING
        entry.queued_ns = now_ns
        self.waiting += 1
        self.waiting_bytes += entry.size_bytes
        if not user.waiting:
            self.users_waiting += 1
            self.waiting_weight += user.weight
        user.waiting += 1
        user.size_bytes += entry.size_bytes
        if place in user.waiting_in:
            user.waiting_in[place] += 1
        else:
            user.waiting_in[place] = 1
            if not user.at_limit:
                self._set_ready(place, 1)
        for each in place.chain():
            each.waiting += 1
        place.pool.entries[entry] = None
        entry.due_ns = -1
        self.schedule(entry, now_ns)

    def _stop_waiting(self, entry: Entry) -> None:
        user, place = entry.user, entry.place
        self.waiting -= 1
        self.waiting_bytes -= entry.size_bytes
        user.waiting -= 1
        user.size_bytes -= entry.size_bytes
        if not user.waiting:
            self.users_waiting -= 1
            self.waiting_weight -= user.weight
        user.waiting_in[place] -= 1
        if not user.waiting_in[place]:
            del user.waiting_in[place]
            if not user.at_limit:
                self._set_ready(place, -1)
        for each in place.chain():
            each.waiting -= 1
        del place.pool.entries[entry]

    def _run(self, entry: Entry, change: int) -> None:
        user = entry.user
        was = user.at_limit
        user.running += change
        self._limit_passed(user, was)
        self.running += change
        for each in entry.place.chain():
            each.running += change

    def _release(self, entry: Entry) -> None:
        """Its lease ends. Of a node that is gone, nothing is left to give back."""
        self._run(entry, -1)
        if entry.decision is not None:
            entry.decision = None
            self.undelivered -= 1
        node = self.nodes.get(entry.node)
        entry.node = None
        if node is not None:
            node.used -= entry.width
            node.leases -= 1
            self.refresh(node)

    # Comparing -----------------------------------------------------------------------------------

    def check_conservation(self) -> None:
        """Nobody who may go waits while a node of its pool has room."""
        if self.running >= self.running_max:
            return
        for place in self._ready.values():
            assert not (place.pool.open and place.below_limits), (
                f"{place.ready} users of place {place.number} could go, and {place.pool.open} nodes have room"
            )

    def check_counters(self, theirs: dict[str, int]) -> None:
        mine = self.count
        mine["waiting"], mine["running"], mine["waiting_bytes"] = self.waiting, self.running, self.waiting_bytes
        mine["refused"] = mine["refused_queue_full"] + mine["refused_user_queue_full"] + mine["refused_bytes_full"]
        for name, value in mine.items():
            assert theirs[name] == value, f"{name} is {theirs[name]}, but {value} by the ledger"

    def check_node(self, handle: int, theirs: dict[str, int]) -> None:
        node = self.nodes.get(handle)
        mine = {} if node is None else dict(state=node.state, slots=node.slots, running=node.used, leases=node.leases)
        assert mine == {name: theirs[name] for name in mine} and bool(mine) == bool(theirs), (
            f"node {handle:#x} is {theirs}, but {mine} by the ledger"
        )

    def check_pool(self, pool: Place, theirs: dict[str, int]) -> None:
        mine = (pool.waiting, pool.running, len(pool.nodes), pool.usable, pool.open)
        told = tuple(theirs[name] for name in ("waiting", "running", "nodes", "usable", "open"))
        assert told == mine, f"pool {pool.number}: waiting, running, nodes, usable, open are {told}, but {mine}"
