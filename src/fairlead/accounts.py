"""What is kept of a user, and what of a pool's service was due to whom in the last minute.

Promise: a dispatch costs a few additions, whoever looks pays for the rest, and all sums are of integers, so that what
leaves the window leaves nothing behind.

Theory. *Service* is cost as the core charges it, attributed to the moment of dispatch: the estimate while a request
runs, the true cost once it has ended. The window is the last WINDOW_S seconds in _BUCKETS pieces, of which the newest
is still being filled. What a user could have had depends on who else was there, in its tier and team of the pool:

    claim        the service given out in each piece, dealt out by weight to all who had something waiting or running
                 at any time in that piece
    would have   the service given out while the user had something waiting that its own limit would let start, dealt
                 out by weight to all of whom that was true at the time
    demand       max(service, would have)
    fair share   its part when all service is dealt out by claims, nobody more than its demand (max-min)
    Jain index   of a pool: (sum x)^2 / (n sum x^2), x = service / fair share, over its users with a fair share

Where all wait all the time x is service / weight, up to a factor that all have. A user who asks for little is not short
of anything, one who came late is not short of what was given out before, and one whose requests all wait or expire is.
One who was refused at the door never waited: its refusals tell.

Both sums are kept as clocks of the place: one moves at the end of a piece by its service / weights, the other at each
dispatch by cost / weights; a user's part is its weight x what a clock moved while it was there. Where the clocks stood
when pieces ended is kept, so nothing has to be done for those who only wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import truediv
from typing import Final, Protocol

from fairlead.clock import SECOND_NS
from fairlead.fairness import fair_level, jain_index
from fairlead.pieces import ascending, pieces

# How a request of a known user ends. What is answered before its user is known is "rejected".
OUTCOMES: Final = ("completed", "failed", "cancelled", "expired", "no_node", "pushed_out", "refused", "drained")
WINDOW_S: Final = 60
_BUCKETS: Final = 12
BUCKET_NS: Final = WINDOW_S * SECOND_NS // _BUCKETS
_CLOCK_BITS: Final = 40  # a clock counts in 2**-40 of cost / weight: all weights together are far less
# What a user is to a place. Who contends is present, too.
ABSENT, PRESENT, CONTENDING = range(3)


class Tokens(Protocol):
    """What was read of an answer, once the request has ended; None: not known. cached is a part of input."""

    input: int | None
    cached: int | None
    output: int | None


class Counts:
    """Sums since the start; service in the core's units of cost."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.service = self.input = self.cached = self.output = 0

    def count(self, outcome: str, cost: int, tokens: Tokens | None) -> None:
        self.outcomes[outcome] += 1
        self.service += cost
        if tokens is not None and tokens.input is not None:
            self.input += tokens.input
            self.cached += tokens.cached or 0
            self.output += tokens.output or 0

    def add(self, other: Counts) -> None:
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        self.service += other.service
        self.input += other.input
        self.cached += other.cached
        self.output += other.output


class Account:
    """One user. series: the counters under which /metrics has it, its own if the configuration names it."""

    def __init__(self, key: int, name: str, series: Counts) -> None:
        self.key = key
        self.name = name
        self.series = series
        self.counts = Counts()
        self.flows: dict[int, Flow] = {}  # by place
        self.held = 0  # requests in the router
        self.running = 0
        self.running_max = 0


class Tally:
    """One user in one place within one bucket of time. live: it is in the window's sums."""

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self.live = True
        self.service = self.claim = self.would_have = 0
        self.waits = self.wait_ns = self.wait_max_ns = 0


class Place:
    """Where users compete directly: those of one tier and team in a pool. number: the core's; what: (pool, tier, team).

    present, contending: weights now; touched: of all who were present in this bucket; served: in it. presence,
    contended: the clocks."""

    def __init__(self, number: int, what: tuple[int, int, str | None], bucket: int) -> None:
        self.number = number
        self.what = what
        self.bucket = bucket
        self.present = self.contending = self.touched = 0
        self.served = self.presence = self.contended = 0
        self.marks: deque[tuple[int, int, int]] = deque(maxlen=_BUCKETS + 1)  # of buckets that ended: the clocks then

    def turn(self, bucket: int) -> None:
        """It is that bucket now. If it is a later one, nothing happened between the two."""
        if bucket <= self.bucket:
            return
        self.presence += self.claim
        self.marks.append((self.bucket, self.presence, self.contended))
        self.bucket = bucket
        self.touched, self.served = self.present, 0

    @property
    def pool(self) -> int:
        return self.what[0]

    @property
    def claim(self) -> int:
        """Of a weight of one, in this bucket so far."""
        return (self.served << _CLOCK_BITS) // self.touched if self.touched else 0

    def serve(self, cost: int) -> None:
        self.served += cost
        if self.contending:
            self.contended += (cost << _CLOCK_BITS) // self.contending


class Flow:
    """One user in one place. service to wait_ns are the window's sums as of the last ``look``; so is fair, its fair
    share of the place's service. Service is in the core's units of cost."""

    def __init__(self, account: Account, place: Place) -> None:
        self.account = account
        self.place = place
        self.weight = 0
        self.waiting = self.running = 0
        self.state = ABSENT
        self.last = -1  # the bucket in which it was last present, once it is ABSENT
        # Its parts of what the clocks moved were put into tallies up to here.
        self.bucket, self.presence, self.contended = place.bucket, place.presence, place.contended
        self.recent: deque[Tally] = deque()
        self.service = self.claim = self.would_have = self.waits = self.wait_ns = 0
        self.fair = 0.0
        self.dealt = 0  # the service of which fair is a part: as it was when the last look came by

    def tally(self, bucket: int) -> Tally:
        """That bucket's; the newest or a newer one."""
        recent = self.recent
        if recent:
            tally = recent[-1]
            if tally.bucket == bucket:
                return tally
            self._expire(bucket)
        tally = Tally(bucket)
        recent.append(tally)
        return tally

    def _expire(self, bucket: int) -> None:
        recent = self.recent
        while recent and recent[0].bucket <= bucket - _BUCKETS:
            tally = recent.popleft()
            tally.live = False
            self.service -= tally.service
            self.claim -= tally.claim
            self.would_have -= tally.would_have
            self.waits -= tally.waits
            self.wait_ns -= tally.wait_ns

    def absorb(self, other: Flow) -> None:
        """What another one had in the window is this one's, too. It is of the same place, and its sums stay."""
        self._settle()  # so that no later tally is older than what comes in
        tallies = {tally.bucket: tally for tally in self.recent}
        for theirs in other.recent:
            mine = tallies.get(theirs.bucket)
            if mine is None:
                mine = tallies[theirs.bucket] = Tally(theirs.bucket)
            mine.service += theirs.service
            mine.waits += theirs.waits
            mine.wait_ns += theirs.wait_ns
            mine.wait_max_ns = max(mine.wait_max_ns, theirs.wait_max_ns)
            self.service += theirs.service
            self.waits += theirs.waits
            self.wait_ns += theirs.wait_ns
        self.recent = deque([tallies[bucket] for bucket in sorted(tallies)])
        self._expire(self.place.bucket)

    def look(self, bucket: int) -> bool:
        """Bring the sums up to date. False: there is nothing to see."""
        self._settle()
        self._expire(bucket)
        return bool(self.recent) or self._touches()

    @property
    def claims(self) -> int:
        """With that of the bucket that has not ended."""
        return self.claim + self.weight * self.place.claim if self._touches() else self.claim

    def _touches(self) -> bool:
        """It was present at some time in its place's bucket."""
        return self.state != ABSENT or self.last == self.place.bucket

    @property
    def wait_max_ns(self) -> int:
        """The longest of the window's waits."""
        return max((tally.wait_max_ns for tally in self.recent), default=0)

    def dispatched(self, cost: int, wait_ns: int) -> Tally:
        """wait_ns < 0: its wait was counted before."""
        place = self.place
        if self.bucket < place.bucket:
            self._settle()
        place.serve(cost)
        tally = self.tally(place.bucket)
        tally.service += cost
        self.service += cost
        if wait_ns >= 0:
            tally.waits += 1
            tally.wait_ns += wait_ns
            if wait_ns > tally.wait_max_ns:
                tally.wait_max_ns = wait_ns
            self.waits += 1
            self.wait_ns += wait_ns
        return tally

    def correct(self, tally: Tally, difference: int) -> None:
        """Service counts where it was dispatched, also if that is out of the window by now."""
        tally.service += difference
        if tally.live:
            self.service += difference

    def weigh(self, weight: int) -> None:
        self._settle()
        place, difference = self.place, weight - self.weight
        if self._touches():
            place.touched += difference
        if self.state:
            place.present += difference
        if self.state == CONTENDING:
            place.contending += difference
        self.weight = weight

    def change(self, state: int) -> None:
        """state: another than it has."""
        self._settle()
        place, was, weight = self.place, self.state, self.weight
        if not was:
            place.present += weight
            if self.last < place.bucket:
                place.touched += weight
        elif not state:
            place.present -= weight
            self.last = place.bucket
        if state == CONTENDING:
            place.contending += weight
        elif was == CONTENDING:
            place.contending -= weight
        self.state = state

    def _settle(self) -> None:
        """Take its parts of what the clocks moved since the last time."""
        place = self.place
        if self.bucket < place.bucket:
            for bucket, presence, contended in place.marks:
                if bucket >= self.bucket:
                    if (self.state or bucket == self.last) and presence > self.presence:
                        claim = self.weight * (presence - self.presence)
                        tally = self.tally(bucket)
                        tally.claim += claim
                        self.claim += claim
                    self._contend(bucket, contended)
                    self.presence = presence
            self.bucket, self.presence = place.bucket, place.presence
        self._contend(place.bucket, place.contended)

    def _contend(self, bucket: int, contended: int) -> None:
        """Up to this reading of the clock, which was in that bucket."""
        if self.state == CONTENDING and contended > self.contended:
            would_have = self.weight * (contended - self.contended)
            tally = self.tally(bucket)
            tally.would_have += would_have
            self.would_have += would_have
        self.contended = contended


@dataclass(slots=True)
class Standing:
    """The window of one pool; flows: those with something in the pool or in the window."""

    service: int = 0
    jain: float = 1.0
    flows: list[Flow] = field(default_factory=list)


class Division:
    """One place in the course of a look: what there was of each flow when it was added, and what follows from that.

    Requests go on meanwhile, so flows are of moments a few turns of the loop apart, and ``fair`` is of the last look
    that has got there; all that was added is dealt out, and nothing else."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []
        self.service = self.shared = 0  # of all; of those who have a claim, who follow
        self.sharing: list[tuple[Flow, int]] = []
        self.demand: list[float] = []
        self.claims: list[float] = []

    def add(self, flow: Flow) -> None:
        service, claims = flow.service, flow.claims
        flow.dealt = service
        self.flows.append(flow)
        self.service += service
        if not claims:
            flow.fair = 0.0
            return
        self.shared += service
        self.sharing.append((flow, service))
        self.demand.append(max(float(service), flow.would_have / (1 << _CLOCK_BITS)))
        self.claims.append(float(claims))

    async def deal(self) -> list[float]:
        """Find the fair shares. Service / fair share of those who have one."""
        demand, claims = self.demand, self.claims
        level = fair_level(self.shared, demand, claims, await ascending(list(map(truediv, demand, claims))))
        parts: list[float] = []
        async for some in pieces(range(len(self.sharing))):
            for index in some:
                flow, service = self.sharing[index]
                flow.fair = min(demand[index], level * claims[index])
                if flow.fair > 0:
                    parts.append(service / flow.fair)
        return parts


async def divide(places: Iterable[Division]) -> Standing:
    """A pool, of all its places."""
    standing = Standing()
    parts: list[float] = []
    for place in places:
        standing.flows += place.flows
        standing.service += place.service
        parts += await place.deal()
    standing.jain = jain_index(parts)
    return standing
