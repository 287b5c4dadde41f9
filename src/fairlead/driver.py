"""The one bridge between the event loop and the scheduler core.

Promise: nobody else holds the Scheduler, but for the tree of places that the driver keeps. A slot that frees is given
away before the call that freed it returns, a deadline is noticed within 25 ms of its passing, and neither costs a
future, a task or a timer per request.

Theory. The core returns decisions and calls nothing back, so after everything that could have opened a slot the
decisions are drained and handed to their tickets: that is ``pump``. A ticket's callback may call the driver again
(its node can't be reached: requeue); such a call changes the core at once and leaves the draining to the pump that
is running. What happens later than now is in two heaps, the core's deadlines of waiting requests and the timers of
dispatched ones here, and one loop timer is armed for the nearer of both. It may be armed too early (its request has
gone), never too late: it is moved only when something comes before it. A dispatched ticket has one timer, which it
looks at when it fires: bytes that arrive only leave their time behind, they move nothing.

The loop counts in milliseconds and from a cached time, the driver in nanoseconds from its clock: so the delay is
rounded up and one added, and a timer that came early nevertheless is armed again for at least a millisecond.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final

from fairlead.clock import MILLISECOND_NS, Clock
from fairlead.core.heap import IndexedHeap
from fairlead.core.scheduler import CANCELLED, DISPATCHED, FAILED, NEVER, Scheduler
from fairlead.places import Places, Shape
from fairlead.policy import RETRY_MIN_MS, DrainRate
from fairlead.ticket import Ticket

SLOT_MASK: Final = 0xFFFFFFFF
_SLEEP_MAX_NS: Final = 3600 * 1_000_000_000  # a timer's delay must fit what the loop can count


class Driver:
    """requests_max: requests that the scheduler can hold, waiting and running; decisions_max: its own; shape: of the
    tree of places."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scheduler: Scheduler,
        clock: Clock,
        *,
        requests_max: int,
        shape: Shape = Shape(),  # noqa: B008  frozen
        decisions_max: int = 256,
        seed: int | None = None,
    ) -> None:
        self.now_ns = clock
        self._loop = loop
        self._scheduler = scheduler
        self._places = Places(scheduler, shape, clock())
        self._decisions_max = decisions_max
        self._tickets: dict[int, Ticket] = {}  # by slot
        self._timers = IndexedHeap(requests_max)
        self._due: set[int] = set()  # slots whose timer has come, while they are told so
        self._rates: dict[int, DrainRate] = {}
        self._random = random.Random(seed)
        self._pumping = False
        self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ns = NEVER

    # Requests ------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> int:
        """0, or the core's refusal (< 0). The ticket may have been dispatched, and may even have ended, by then."""
        now_ns = self.now_ns()
        answer = self._scheduler.submit(
            now_ns,
            ticket.place,
            self._places.core_user(ticket.pool, ticket.user),
            ticket.weight,
            ticket.cost,
            ticket.width,
            ticket.size_bytes,
            ticket.deadline_ns,
            ticket.running_max,
            ticket.waiting_max,
        )
        if answer < 0:
            return answer
        ticket.handle = answer
        self._tickets[answer & SLOT_MASK] = ticket
        self._pump(now_ns)
        return 0

    def cancel(self, ticket: Ticket) -> bool:
        """Take out a ticket that was not told of a dispatch; it is told nothing more. False: it was told of its end."""
        now_ns = self.now_ns()
        handle = ticket.handle
        # The core may have dispatched it in the very decisions that are being handed out: then nothing was sent yet.
        if not (self._scheduler.cancel(now_ns, handle) or self._scheduler.finish(now_ns, handle, CANCELLED, 0)):
            ticket.handle = 0  # it may also have been sent away in them
            return handle != 0
        self._forget(ticket)
        self._pump(now_ns)
        return True

    def finish(self, ticket: Ticket, outcome: int, cost: int) -> bool:
        """End a dispatched ticket. False: its lease was released before."""
        now_ns = self.now_ns()
        if not self._scheduler.finish(now_ns, ticket.handle, outcome, cost):
            return False
        self._rates[ticket.pool].ended(now_ns)
        self._forget(ticket)
        self._pump(now_ns)
        return True

    def requeue(self, ticket: Ticket, where: tuple[int, int] | None = None) -> bool:
        """Put a dispatched ticket back to its place in the queue. False: its lease was released before.

        where: the pool and place where it belongs now, if that may have changed while it ran.
        """
        now_ns = self.now_ns()
        if not self._scheduler.requeue(now_ns, ticket.handle):
            return False
        slot = ticket.handle & SLOT_MASK
        self._timers.remove(slot)
        self._due.discard(slot)
        self._rates[ticket.pool].ended(now_ns, 0)
        if where is not None and where[0] != ticket.pool and self._scheduler.move(now_ns, ticket.handle, where[1]):
            ticket.pool, ticket.place = where
        self._pump(now_ns)
        return True

    def move(self, ticket: Ticket, pool: int, place: int) -> bool:
        """Put a waiting ticket into another pool, to a place there. False: it does not wait (any more)."""
        now_ns = self.now_ns()
        if not self._scheduler.move(now_ns, ticket.handle, place):
            return False
        ticket.pool, ticket.place = pool, place
        self._pump(now_ns)
        return True

    def set_timer(self, ticket: Ticket, at_ns: int) -> None:
        """Call the dispatched ticket's on_timer then, and not when it was to be called before."""
        slot = ticket.handle & SLOT_MASK
        self._due.discard(slot)
        if slot in self._timers:
            self._timers.update(at_ns, slot)
        else:
            self._timers.push(at_ns, slot)
        if at_ns < self._armed_ns and not self._pumping:
            self._arm_at(at_ns)

    def tickets(self) -> list[Ticket]:
        """Everything that waits or runs."""
        return list(self._tickets.values())

    # Nodes and pools -----------------------------------------------------------------------------

    def add_pool(self) -> int:
        now_ns = self.now_ns()
        pool = self._places.add_pool(now_ns)
        self._rates[pool] = DrainRate(now_ns)
        return pool

    def remove_pool(self, pool: int) -> None:
        """Only of one that is_unused."""
        for gone in self._places.remove_pool(self.now_ns(), pool):
            del self._rates[gone]

    def is_unused(self, pool: int) -> bool:
        return self._places.is_unused(pool)

    def find_place(self, pool: int, tier: int, team: str | None, cheap: bool) -> tuple[int, int]:
        """(pool, place) of a request of a model in that pool. Raises NoRoom."""
        now_ns = self.now_ns()
        found = self._places.find(now_ns, pool, tier, team, cheap)
        if found[0] not in self._rates:
            self._rates[found[0]] = DrainRate(now_ns)
        return found

    def add_node(self, slots: int) -> int:
        return self._places.add_node(self.now_ns(), slots)

    def remove_node(self, node: int) -> bool:
        return self._node_changed(self._places.remove_node(self.now_ns(), node))

    def set_node_pools(self, node: int, pools: Iterable[int]) -> bool:
        return self._node_changed(self._places.set_node_pools(self.now_ns(), node, pools))

    def set_node_state(self, node: int, state: int) -> bool:
        return self._node_changed(self._places.set_node_state(self.now_ns(), node, state))

    def set_node_slots(self, node: int, slots: int) -> bool:
        return self._node_changed(self._scheduler.set_node_slots(self.now_ns(), node, slots))

    def set_node_load(self, node: int, gpu_load: float, others: int) -> bool:
        return self._node_changed(self._scheduler.set_node_load(self.now_ns(), node, gpu_load, others))

    def _node_changed(self, known: bool) -> bool:
        self._pump(self.now_ns())
        return known

    # Looking -------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        return self._scheduler.counters()

    def pool_numbers(self, pool: int) -> dict[str, int]:
        return self._scheduler.pool(pool)

    def user_numbers(self, pool: int, user: int) -> dict[str, int]:
        """waiting and running of a user in a pool, in whichever of its tiers."""
        number = self._places.core_user(pool, user)
        found = [self._scheduler.user(place, number) for place in self._places.of_pool(pool)]
        return {name: sum(numbers.get(name, 0) for numbers in found) for name in ("waiting", "running")}

    def place_user(self, pool: int, place: int, user: int) -> dict[str, int]:
        """waiting, running, virtual_start and weight of a user in a place of a pool, and the place's virtual_time.
        Empty: it has no counter there, or there is no such place any more."""
        try:
            numbers = self._scheduler.user(place, self._places.core_user(pool, user))
            above = self._scheduler.pool(place) if place == pool else self._scheduler.group(place)
        except ValueError:
            return {}
        return numbers | {"virtual_time": above["virtual_time"]} if numbers else {}

    def pools(self) -> list[int]:
        """Those of models, and those for their cheap requests."""
        return sorted(self._rates)

    def pool_name(self, pool: int) -> str:
        return self._places.name(pool)

    def node_numbers(self, node: int) -> dict[str, int]:
        """The core's, and cheap_leases: cheap requests that run there. Empty: there is no such node."""
        return self._places.node_numbers(node)

    def has_usable_node(self, pool: int) -> bool:
        return self._scheduler.pool(pool)["usable"] > 0

    def position(self, ticket: Ticket) -> int:
        """Place in line that a client is told; 0: it does not wait."""
        return self._scheduler.position(ticket.handle)

    def position_refused(self, ticket: Ticket) -> int:
        """The place that a refused ticket would have had."""
        user = self._places.core_user(ticket.pool, ticket.user)
        return self._scheduler.position_if(ticket.place, user, ticket.weight, ticket.deadline_ns)

    def estimated_wait_s(self, pool: int, position: int) -> int | None:
        """Whole seconds until that place is served, by the rate that was measured; None: none was yet."""
        return self._rates[pool].estimated_wait_s(self.now_ns(), position)

    def retry_after_ms(self, pool: int, position: int) -> int:
        return self._rates[pool].retry_after_ms(self.now_ns(), position, self._random)

    def retry_soon_ms(self) -> int:
        """For refusals that have nothing to do with how fast a pool works."""
        return self._random.randint(RETRY_MIN_MS, 2 * RETRY_MIN_MS)

    def check(self) -> None:
        """Raise AssertionError naming what is wrong with the core, the timers or the tickets. O(size)."""
        self._scheduler.check()
        self._timers.check()
        counters = self._scheduler.counters()
        held = counters["waiting"] + counters["running"]
        assert len(self._tickets) == held, f"{len(self._tickets)} tickets, but the core holds {held} requests"
        assert len(self._timers) <= counters["running"], f"{len(self._timers)} timers, {counters['running']} running"

    def close(self) -> None:
        """Disarm. Whoever closes has ended the tickets before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_ns = NEVER

    # The pump ------------------------------------------------------------------------------------

    def _pump(self, now_ns: int) -> None:
        if self._pumping:
            self._again = True
            return
        self._pumping = True
        try:
            while True:
                self._again = False
                decisions = self._scheduler.drain(now_ns)
                if decisions:
                    self._tell(decisions, now_ns)
                if len(decisions) < self._decisions_max and not self._again:
                    break
                now_ns = self.now_ns()
        finally:
            self._pumping = False
        self._arm()

    def _tell(self, decisions: list[tuple[int, int, int]], now_ns: int) -> None:
        """An earlier ticket's callback may have ended a later one: that one's handle is another by then."""
        # Those sent away come first. All of them are taken out before one is told: in the core their slots are free,
        # and a callback that submits gets one.
        gone = [self._tickets.pop(handle & SLOT_MASK) for kind, handle, _ in decisions if kind != DISPATCHED]
        for ticket, (kind, handle, _) in zip(gone, decisions, strict=False):
            if ticket.handle == handle:
                ticket.handle = 0
                self._call(ticket, ticket.on_expire, kind, now_ns)
        for _, handle, node in decisions[len(gone) :]:
            dispatched = self._tickets.get(handle & SLOT_MASK)
            if dispatched is not None and dispatched.handle == handle:
                self._rates[dispatched.pool].started(now_ns)
                self._call(dispatched, dispatched.on_dispatch, self._places.node_of(node), now_ns)

    def _call(self, ticket: Ticket, callback: Callable[..., int | None], *args: int) -> int:
        """What the callback returns. If it raises, the others go on and its own ticket ends."""
        try:
            return callback(*args) or 0
        except Exception as error:
            self._report(ticket, error)
        if not self.finish(ticket, FAILED, 0):
            self.cancel(ticket)  # it had put itself back
        try:
            ticket.on_broken()
        except Exception as error:
            self._report(ticket, error)
        return 0

    def _report(self, ticket: Ticket, error: Exception) -> None:
        message = "a request's callback failed; the request ends, the others go on"
        self._loop.call_exception_handler({"message": message, "exception": error, "ticket": ticket})

    def _forget(self, ticket: Ticket) -> None:
        slot = ticket.handle & SLOT_MASK
        del self._tickets[slot]
        self._timers.remove(slot)
        self._due.discard(slot)
        ticket.handle = 0

    # The one timer -------------------------------------------------------------------------------

    def _arm(self) -> None:
        at_ns = self._scheduler.next_deadline_ns()
        top = self._timers.top()
        if top is not None and top[0] < at_ns:
            at_ns = top[0]
        if at_ns < self._armed_ns:
            self._arm_at(at_ns)

    def _arm_at(self, at_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_ns = min(max(at_ns - self.now_ns(), 0), _SLEEP_MAX_NS)
        self._timer = self._loop.call_later((delay_ns // MILLISECOND_NS + 2) / 1000, self._fire)
        self._armed_ns = at_ns

    def _fire(self) -> None:
        self._timer = None
        self._armed_ns = NEVER
        now_ns = self.now_ns()
        slots = self._timers.pop_due(now_ns)
        self._due.update(slots)
        self._pumping = True
        try:
            for slot in slots:
                if slot not in self._due:
                    continue  # ended, put back or set anew by an earlier ticket's callback
                ticket = self._tickets[slot]
                again_ns = self._call(ticket, ticket.on_timer, now_ns)
                if again_ns and slot in self._due:
                    self._timers.push(again_ns, slot)
                self._due.discard(slot)
        finally:
            self._pumping = False
        self._pump(self.now_ns())
