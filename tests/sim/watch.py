"""Who looks at driver and scheduler after every event.

An *event* is a call into the driver that changes something, a firing of its timer, or something that it tells a request
(a dispatch, that it was sent away, its timer, that it is broken). Looking is no event. After every one of them:

  within a pump     Scheduler.check(), which walks the whole core. Every answer of the core and every decision was
                    compared with the ledger's own when it was given.
  at rest           Driver.check(), which walks core, timers and tickets. Against the ledger: all counters, the next
                    deadline, and the node and the pool that the event was about. Nothing that was decided is untold.
                    Nobody who may go waits while a node of its pool has room. The loop's timer is armed, once, and not
                    later than the first deadline or timer. Nothing is overdue.
  at rest, every    all nodes, pools and tickets against the ledger.
  WHOLE_EVERY

So every invariant of the core is walked after every event, also with a thousand waiting: compiled, that takes some
20 us. Only the comparison of what an event was *not* about with the ledger is made now and then.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from typing import Any

from fairlead.clock import MILLISECOND_NS
from fairlead.core.scheduler import NEVER
from fairlead.driver import Driver
from sim.books import WAITING, Entry
from sim.ledger import Ledger
from sim.virtual_loop import VirtualClock, VirtualLoop

LATE_NS = 25 * MILLISECOND_NS  # the driver's promise
ARM_NS = 3 * MILLISECOND_NS  # the driver rounds the delay up and adds one
ARM_MAX_NS = 3600 * 10**9 + ARM_NS
WHOLE_EVERY = 64
LOG_MAX = 60
CROWD, CROWD_USERS = 1_000, 100

OUTSIDE, QUEUED, LEASED, OVER = "outside", "queued", "leased", "over"  # what a ticket was told


class Watch:
    def __init__(self, clock: VirtualClock, loop: VirtualLoop, still_ns_max: int) -> None:
        """still_ns_max: the longest that the clock will stand still."""
        self.clock = clock
        self.loop = loop
        self.late_ns = LATE_NS + still_ns_max
        self.driver: Driver
        self.scheduler: Any
        self.ledger: Ledger
        self.submitting: Any = None
        self.events = 0
        self.crowded = 0  # of those, with more than CROWD waiting of CROWD_USERS or more
        self.waiting_most = 0
        self.depth = 0
        self.leases: dict[int, int] = {}  # by place: those that were told of a dispatch and have not ended
        self.seen: Counter[str] = Counter()
        self.log: deque[tuple[Any, ...]] = deque(maxlen=LOG_MAX)
        self._timers: list[tuple[int, int, Any]] = []
        self._sequence = 0
        self._rests = 0

    # What is told to, and done by, tickets -------------------------------------------------------

    def deliver(self, entry: Entry) -> None:
        entry.decision = None
        self.ledger.undelivered -= 1

    def over(self, ticket: Any) -> None:
        """It has ended. Once: whoever calls this has looked at what it was told before."""
        if ticket.told is LEASED:
            self.leases[ticket.pool] -= 1
        ticket.told, ticket.timer_ns = OVER, None
        ticket.over()

    def set_timer(self, ticket: Any, at_ns: int) -> None:
        ticket.timer_ns = at_ns
        ticket.timer_from_ns = max(at_ns, self.clock.reading)
        self._sequence += 1
        heapq.heappush(self._timers, (at_ns, self._sequence, ticket))

    def _first_timer(self) -> Any:
        timers = self._timers
        while timers and timers[0][2].timer_ns != timers[0][0]:
            heapq.heappop(timers)
        return timers[0][2] if timers else None

    # Events --------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.depth += 1

    def done(self, what: str, ticket: Any = None, about: Any = None, node: int | None = None) -> None:
        """An event is over, with all that it brought about. about: for the log."""
        self.depth -= 1
        self.events += 1
        self.scheduler.empty_drains = 0
        self.seen[what] += 1
        self.log.append((self.events, self.clock.reading, self.depth, what, ticket, about))
        ledger = self.ledger
        if ledger.waiting > CROWD and ledger.users_waiting >= CROWD_USERS:
            self.crowded += 1
        if ledger.waiting > self.waiting_most:
            self.waiting_most = ledger.waiting
        if self.depth:
            self.scheduler.check()
        else:
            self._check_at_rest(ticket, node)

    def _check_at_rest(self, ticket: Any, node: int | None) -> None:
        ledger, scheduler = self.ledger, self.scheduler
        self.driver.check()
        assert not ledger.undelivered, f"{ledger.undelivered} decisions were not told to anybody"
        ledger.check_counters(scheduler.counters())
        ledger.check_conservation()
        self._check_times()
        if node is not None:
            ledger.check_node(node, scheduler.node(node))
        if ticket is not None and ticket.entry is not None:
            place = ticket.entry.place
            if ledger.places.get(place.number) is place:
                self._check_leases(place.number)
                ledger.check_pool(place.pool, scheduler.pool(place.pool.number))
            if ticket.entry.node is not None:
                ledger.check_node(ticket.entry.node, scheduler.node(ticket.entry.node))
        self._rests += 1
        if self._rests % WHOLE_EVERY == 0:
            self.check_whole()

    def _check_times(self) -> None:
        """The next deadline is the right one, a timer is armed for it in time, and it has not passed unnoticed."""
        ledger = self.ledger
        first_ns = ledger.next_due_ns()
        theirs_ns = self.scheduler.next_deadline_ns()
        assert theirs_ns == first_ns, f"the next deadline is {theirs_ns}, but {first_ns} by the ledger"
        now_ns = self.clock.reading
        if first_ns != NEVER:
            late_ns = now_ns - ledger.first_due_from_ns()
            assert late_ns <= self.late_ns, f"a deadline passed {late_ns} ns ago, and nobody was told"
        ticket = self._first_timer()
        if ticket is not None:
            late_ns = now_ns - ticket.timer_from_ns
            assert late_ns <= self.late_ns, f"a request's timer is {late_ns} ns late"
            first_ns = min(first_ns, ticket.timer_ns)
        timers = self.loop.timers()
        assert len(timers) <= 1, f"the driver has {len(timers)} timers in the loop"
        if first_ns != NEVER:
            assert timers, "something is due, and no timer is armed"
            timer = timers[0]
            late_ns = timer.set_ns + timer.delay_ns - max(first_ns, timer.set_ns)
            assert late_ns <= ARM_NS or timer.delay_ns <= ARM_MAX_NS <= first_ns - timer.set_ns + ARM_NS, (
                f"the timer is armed for {late_ns} ns after the first that is due"
            )

    def _check_leases(self, place: int) -> None:
        """The rate of service stands still while nothing runs: so it must know what runs."""
        running = self.driver._rates[place]._running
        assert running == self.leases[place], f"place {place}: the rate counts {running} running, {self.leases[place]}"

    def check_whole(self) -> None:
        ledger, scheduler = self.ledger, self.scheduler
        for handle in ledger.nodes:
            ledger.check_node(handle, scheduler.node(handle))
        for place in ledger.places.values():
            self._check_leases(place.number)
            if place.parent is None:
                ledger.check_pool(place, scheduler.pool(place.number))
            else:
                theirs = scheduler.group(place.number)
                assert (theirs["waiting"], theirs["running"]) == (place.waiting, place.running), f"group {place.number}"
        tickets, mine = set(self.driver.tickets()), {entry.ticket for entry in ledger.entries.values()}
        assert tickets == mine, f"the driver has {len(tickets)} tickets, the ledger {len(mine)}"
        for entry in ledger.entries.values():
            ticket, told = entry.ticket, QUEUED if entry.state is WAITING else LEASED
            theirs, its = (ticket.handle, ticket.pool, ticket.told), (entry.handle, entry.place.number, told)
            assert theirs == its, f"{ticket} is {theirs}, but by the ledger it is {its}"

    def report(self) -> str:
        """The last events, the newest last."""
        start_ns = self.log[0][1] if self.log else 0
        lines = [
            f"{number:>6} {(at_ns - start_ns) / 1e6:>+10.3f} ms {'  ' * depth}{what} {ticket or ''} {about}"
            for number, at_ns, depth, what, ticket, about in self.log
        ]
        return "\n".join(lines)
