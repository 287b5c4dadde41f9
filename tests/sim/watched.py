"""The real driver over the real scheduler, each with somebody who writes down what happens to it; see watch.py.

To each request: it is told only what is so, its end once, nothing after it; its timer comes only while it runs, not
early and not late.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fairlead.core.scheduler import DISPATCHED, PUSHED_OUT, Scheduler
from fairlead.driver import Driver
from fairlead.rate import DrainRate
from fairlead.ticket import Ticket
from sim.books import ENDED, WAITING, Entry
from sim.ledger import SENT_AWAY, Ledger
from sim.watch import LEASED, OUTSIDE, OVER, QUEUED, Watch

EMPTY_DRAINS_MAX = 100  # between two events


class WatchedTicket(Ticket):
    """A request that knows what it was told. Subclasses define what it does then, and may raise."""

    watch: Watch
    told = OUTSIDE
    entry: Entry | None = None
    timer_ns: int | None = None
    timer_from_ns = 0

    def on_dispatch(self, node: int, now_ns: int) -> None:
        watch, entry = self.watch, self.entry
        assert self.told is QUEUED and entry is not None, f"dispatched, but it is {self.told}"
        assert entry.decision == (DISPATCHED, node), f"told of node {node:#x}, but decided was {entry.decision}"
        watch.deliver(entry)
        self.told = LEASED
        watch.leases[self.pool] += 1
        watch.begin()
        try:
            self.dispatched(node)
        finally:
            watch.done("dispatched", self, node)

    def on_expire(self, kind: int, now_ns: int) -> None:
        watch, entry = self.watch, self.entry
        assert self.told is QUEUED and entry is not None, f"sent away, but it is {self.told}"
        assert entry.decision == (kind, 0), f"told of kind {kind}, but decided was {entry.decision}"
        watch.deliver(entry)
        if kind != PUSHED_OUT:
            late_ns = now_ns - entry.due_from_ns
            assert late_ns <= watch.late_ns, f"told {late_ns} ns after its deadline"
        watch.over(self)
        watch.begin()
        try:
            self.sent_away(kind)
        finally:
            watch.done(SENT_AWAY[kind], self, kind)

    def on_timer(self, now_ns: int) -> int:
        watch, timer_ns = self.watch, self.timer_ns
        assert self.told is LEASED, f"its timer came, but it is {self.told}"
        assert timer_ns is not None, "a timer came that was not set, or was taken back"
        assert timer_ns <= now_ns, f"its timer came {timer_ns - now_ns} ns too early"
        late_ns = now_ns - self.timer_from_ns
        assert late_ns <= watch.late_ns, f"its timer came {late_ns} ns late"
        self.timer_ns = None
        again_ns = 0
        watch.begin()
        try:
            again_ns = self.timed(now_ns)
            if again_ns and self.told is LEASED and self.timer_ns is None:
                watch.set_timer(self, again_ns)
        finally:
            watch.done("timed", self, again_ns)
        return again_ns

    def on_broken(self) -> None:
        assert self.told is OVER, f"told that it is broken, but it is {self.told}"
        self.watch.begin()
        self.watch.done("broken", self)

    def decided(self, kind: int, node: int) -> None:
        """The core has decided so about it; it will be told."""
        raise NotImplementedError

    def dispatched(self, node: int) -> None:
        raise NotImplementedError

    def sent_away(self, kind: int) -> None:
        raise NotImplementedError

    def timed(self, now_ns: int) -> int:
        raise NotImplementedError

    def over(self) -> None:
        """It has ended, however. Must not call the driver."""
        raise NotImplementedError


class WatchedScheduler:
    """The real scheduler, and a ledger that is told of every call and its answer. The driver can't tell them apart."""

    def __init__(self, limits: dict[str, Any]) -> None:
        nodes_max = 2 * limits["nodes_max"]  # each has a twin for cheap requests, of which there are none here
        limits_max = limits["pools_max"] + limits["groups_max"]
        self._core = core = Scheduler(**limits | {"nodes_max": nodes_max, "limits_max": limits_max})
        self._limits: dict[int, int] = {}
        self.ledger = Ledger(limits, core.counters)
        self.watch: Watch
        self.empty_drains = 0
        for name in ("counters", "pool", "user", "node", "position", "check", "next_deadline_ns", "group"):
            setattr(self, name, getattr(core, name))

    def submit(self, now_ns: int, place: int, user: int, weight: int, cost: int, width: int, *rest: int) -> int:
        size_bytes, _, running_max, waiting_max = rest
        ledger, ticket = self.ledger, self.watch.submitting
        assert ticket is not None
        expected = ledger.expected_answer(place, user, weight, size_bytes, running_max, waiting_max)
        answer = self._core.submit(now_ns, place, user, weight, cost, width, *rest)
        ledger.submitted(now_ns, ticket, answer, expected)
        if answer > 0:
            ticket.told = QUEUED
        return answer

    def drain(self, now_ns: int) -> list[tuple[int, int, int]]:
        decisions = self._core.drain(now_ns)
        self.empty_drains = 0 if decisions else self.empty_drains + 1
        assert self.empty_drains < EMPTY_DRAINS_MAX, "the pump does not come to rest"
        self.ledger.drained(now_ns, decisions)
        return decisions

    def finish(self, now_ns: int, handle: int, outcome: int, cost: int) -> bool:
        entry = self.ledger.entries.get(handle)
        answer = self._core.finish(now_ns, handle, outcome, cost)
        self.ledger.finished(handle, outcome, answer)
        if entry is not None and answer:
            self.watch.over(entry.ticket)
        return answer

    def cancel(self, now_ns: int, handle: int) -> bool:
        entry = self.ledger.entries.get(handle)
        answer = self._core.cancel(now_ns, handle)
        self.ledger.cancelled(handle, answer)
        if entry is not None and answer:
            self.watch.over(entry.ticket)
        return answer

    def requeue(self, now_ns: int, handle: int) -> bool:
        entry = self.ledger.entries.get(handle)
        answer = self._core.requeue(now_ns, handle)
        self.ledger.requeued(now_ns, handle, answer)
        if entry is not None and answer:
            ticket = entry.ticket
            assert ticket.told is LEASED, f"put back, but it is {ticket.told}"
            self.watch.leases[ticket.pool] -= 1
            ticket.told, ticket.timer_ns = QUEUED, None
        return answer

    def move(self, now_ns: int, handle: int, place: int) -> bool:
        answer = self._core.move(now_ns, handle, place)
        self.ledger.moved(now_ns, handle, place, answer)
        return answer

    def add_pool(self, now_ns: int, weight: int = 1, limit: int = 0) -> int:
        limit = self._core.add_limit(now_ns, 0)  # each place has one of its own, for set_limits
        pool = self._core.add_pool(now_ns, weight, limit)
        self._limits[pool] = limit
        self.ledger.add_place(now_ns, pool, None)
        self.watch.leases[pool] = 0
        return pool

    def remove_pool(self, now_ns: int, pool: int) -> None:
        self._core.remove_pool(now_ns, pool)
        self._core.remove_limit(now_ns, self._limits.pop(pool))
        self.ledger.remove_place(pool)

    def add_group(self, now_ns: int, parent: int, weight: int, rank: int) -> int:
        limit = self._core.add_limit(now_ns, 0)
        group = self._core.add_group(now_ns, parent, weight, rank, limit)
        self._limits[group] = limit
        self.ledger.add_place(now_ns, group, parent)
        self.watch.leases[group] = 0
        return group

    def remove_group(self, now_ns: int, group: int) -> None:
        self._core.remove_group(now_ns, group)
        self._core.remove_limit(now_ns, self._limits.pop(group))
        self.ledger.remove_place(group)

    def set_limits(self, now_ns: int, place: int, weight: int, running_max: int) -> None:
        self._core.set_weight(now_ns, place, weight)
        self._core.set_limit(now_ns, self._limits[place], running_max)
        self.ledger.places[place].limit = running_max

    def set_strict(self, now_ns: int, pool: int, promote_after_ns: int) -> None:
        self._core.set_strict(now_ns, pool, promote_after_ns)

    def add_node(self, now_ns: int, slots: int) -> int:
        node = self._core.add_node(now_ns, slots)
        self.ledger.add_node(node, slots)
        return node

    def remove_node(self, now_ns: int, node: int) -> bool:
        answer = self._core.remove_node(now_ns, node)
        self.ledger.remove_node(now_ns, node, answer)
        return answer

    def set_node_pools(self, now_ns: int, node: int, pools: Iterable[int]) -> bool:
        numbers = list(pools)
        answer = self._core.set_node_pools(now_ns, node, numbers)
        self.ledger.set_node_pools(now_ns, node, numbers, answer)
        return answer

    def set_node_state(self, now_ns: int, node: int, state: int) -> bool:
        answer = self._core.set_node_state(now_ns, node, state)
        self.ledger.change_node(now_ns, node, answer, state=state)
        return answer

    def set_node_slots(self, now_ns: int, node: int, slots: int) -> bool:
        answer = self._core.set_node_slots(now_ns, node, slots)
        self.ledger.change_node(now_ns, node, answer, slots=slots)
        return answer

    def set_node_load(self, now_ns: int, node: int, gpu_load: float, others: int) -> bool:
        answer = self._core.set_node_load(now_ns, node, gpu_load, others)
        self.ledger.change_node(now_ns, node, answer)
        return answer


def watched(base: type[Driver]) -> Any:
    """The driver's class, or one with a planted fault, with every event reported to its watch."""

    class WatchedDriver(base):  # type: ignore[valid-type, misc]
        watch: Watch

        def submit(self, ticket: WatchedTicket) -> int:
            watch = self.watch
            watch.submitting = ticket
            watch.begin()
            answer: int = super().submit(ticket)
            assert answer < 0 or ticket.told is not OUTSIDE, "submit says that it was taken, but it was not"
            watch.done("submitted" if not answer else f"refused {answer}", ticket, answer)
            return answer

        def cancel(self, ticket: WatchedTicket) -> bool:
            watch, told, entry = self.watch, ticket.told, ticket.entry
            watch.begin()
            answer: bool = super().cancel(ticket)
            assert answer == (told is QUEUED), f"cancel answered {answer}, but it was {told}"
            if entry is not None and entry.state is ENDED and ticket.told is QUEUED:
                watch.deliver(entry)  # it would have been sent away by the decisions that are being told
                watch.over(ticket)
            watch.done("cancelled", ticket, answer)
            return answer

        def finish(self, ticket: WatchedTicket, outcome: int, cost: int) -> bool:
            watch, told, entry = self.watch, ticket.told, ticket.entry
            node = None if entry is None else entry.node
            watch.begin()
            answer: bool = super().finish(ticket, outcome, cost)
            assert answer == (told is LEASED), f"finish answered {answer}, but it was {told}"
            watch.done("finished", ticket, outcome, node)
            return answer

        def requeue(self, ticket: WatchedTicket, pool: int | None = None) -> bool:
            watch, told, entry = self.watch, ticket.told, ticket.entry
            node = None if entry is None else entry.node
            watch.begin()
            answer: bool = super().requeue(ticket, None if pool is None else (pool, pool))
            assert answer == (told is LEASED), f"requeue answered {answer}, but it was {told}"
            watch.done("requeued", ticket, answer, node)
            return answer

        def move(self, ticket: WatchedTicket, pool: int) -> bool:
            watch, entry = self.watch, ticket.entry
            waits = entry is not None and entry.state is WAITING
            watch.begin()
            answer: bool = super().move(ticket, pool, pool)
            assert answer == waits or watch.depth > 1, f"move answered {answer}"
            watch.done("moved", ticket, pool)
            return answer

        def set_timer(self, ticket: WatchedTicket, at_ns: int) -> None:
            self.watch.begin()
            self.watch.set_timer(ticket, at_ns)
            super().set_timer(ticket, at_ns)
            self.watch.done("timer set", ticket, at_ns)

        def add_pool(self) -> int:
            return self._event("pool added", super().add_pool)

        def remove_pool(self, pool: int) -> None:
            self._event("pool removed", super().remove_pool, pool)

        def add_node(self, slots: int) -> int:
            return self._event("node added", super().add_node, slots)

        def remove_node(self, node: int) -> bool:
            return self._event("node removed", super().remove_node, node)

        def set_node_pools(self, node: int, pools: Iterable[int]) -> bool:
            return self._event("node pools", super().set_node_pools, node, pools)

        def set_node_state(self, node: int, state: int) -> bool:
            return self._event("node state", super().set_node_state, node, state)

        def set_node_slots(self, node: int, slots: int) -> bool:
            return self._event("node slots", super().set_node_slots, node, slots)

        def set_node_load(self, node: int, gpu_load: float, others: int) -> bool:
            return self._event("node load", super().set_node_load, node, gpu_load, others)

        def _fire(self) -> None:
            self._event("timer fired", super()._fire)

        # The driver has no groups of its own yet; this is what it would do with them, and no more.

        def add_group(self, parent: int, weight: int, rank: int) -> int:
            def add() -> int:
                now_ns = self.now_ns()
                group: int = self._scheduler.add_group(now_ns, parent, weight, rank)
                self._rates[group] = DrainRate(now_ns)
                return group

            return self._event("group added", add)

        def remove_group(self, group: int) -> None:
            def remove() -> None:
                self._scheduler.remove_group(self.now_ns(), group)
                del self._rates[group]

            self._event("group removed", remove)

        def set_strict(self, pool: int, promote_after_ns: int) -> None:
            self._event("strict", self._scheduler.set_strict, self.now_ns(), pool, promote_after_ns)

        def set_limits(self, place: int, weight: int, running_max: int) -> None:
            def change() -> None:
                now_ns = self.now_ns()
                self._scheduler.set_limits(now_ns, place, weight, running_max)
                self._pump(now_ns)

            self._event("limits", change)

        def _event(self, what: str, method: Any, *arguments: Any) -> Any:
            watch = self.watch
            watch.begin()
            answer = method(*arguments)
            node = arguments[0] if what.startswith("node ") and what != "node added" else None
            watch.done(what, None, arguments, node)
            return answer

    return WatchedDriver
