"""How far apart two users' service grows while both wait, against the bound that fair queueing promises.

W is a user's service, attributed when a request is dispatched, in the unit that the policy charges: requests, or
priced tokens under token_wfq. For two users that both had requests waiting all through [t1, t2],
|W_f/w_f - W_g/w_g| grows by no more than B_fg + B_gf over it, with B_fg = a_f/w_f + (C-1) * max(d+_f/w_f, d-_g/w_g):
a the user's largest cost, d+ and d- its largest under- and over-estimate, C all slots. FIFO promises nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from fairlead.workload import Trace

FEW: Final = 32
MANY: Final = 8  # users that are compared in a long trace: every pair costs time at every dispatch
LONG: Final = 100_000  # requests


class GapMeter:
    """Largest gap over the pairs of the users with the most requests."""

    def __init__(self, trace: Trace, weight: list[int]) -> None:
        self.weight = weight
        requests = Counter(trace.user)
        ranked = sorted(requests, key=lambda user: (-requests[user], user))
        self.user = ranked[: FEW if len(trace) <= LONG else MANY]
        self.place = {user: place for place, user in enumerate(self.user)}
        size = len(self.user)
        self.waiting = [0] * size
        self.service = [0.0] * size  # normalised: divided by the weight
        self.cost = [0.0] * size
        self.under = [0.0] * size
        self.over = [0.0] * size
        # Of each pair's current common backlog: the least and the largest difference, row minus column.
        self.low = [[0.0] * size for _ in self.user]
        self.high = [[0.0] * size for _ in self.user]
        self.largest = [[0.0] * size for _ in self.user]
        self.backlog: set[int] = set()  # places with waiting requests

    def waits(self, user: int) -> None:
        """One more of the user's requests waits."""
        place = self.place.get(user)
        if place is None:
            return
        self.waiting[place] += 1
        if self.waiting[place] == 1:
            self._begin(place)
            self.backlog.add(place)

    def leaves(self, user: int) -> None:
        """One of them waits no more."""
        place = self.place.get(user)
        if place is not None:
            self.waiting[place] -= 1
            if not self.waiting[place]:
                self.backlog.discard(place)

    def restart(self, user: int) -> None:
        """Service was taken back: intervals of this user begin anew, the bound is about service that stays."""
        place = self.place.get(user)
        if place is not None and self.waiting[place]:
            self._begin(place)

    def _begin(self, place: int) -> None:
        service = self.service
        for other in self.backlog:
            difference = service[place] - service[other]
            self.low[place][other] = self.high[place][other] = difference
            self.low[other][place] = self.high[other][place] = -difference

    def starts(self, user: int, actual: int, charged: int) -> None:
        """One of the user's requests is dispatched, at ``actual`` cost where ``charged`` was estimated."""
        place = self.place.get(user)
        if place is None:
            return
        weight, service = self.weight[user], self.service
        self.cost[place] = max(self.cost[place], actual / weight)
        self.under[place] = max(self.under[place], (actual - charged) / weight)
        self.over[place] = max(self.over[place], (charged - actual) / weight)
        mine = service[place] = service[place] + actual / weight
        if len(self.backlog) > 1:
            high, low, largest = self.high[place], self.low[place], self.largest[place]
            for other in self.backlog:
                difference = mine - service[other]
                if difference > high[other]:
                    high[other] = difference
                    self.low[other][place] = -difference
                    if difference - low[other] > largest[other]:
                        largest[other] = self.largest[other][place] = difference - low[other]
        self.leaves(user)

    def bound(self, one: int, other: int, slots: int) -> float:
        """B_fg + B_gf of two places."""
        first = self.cost[one] + (slots - 1) * max(self.under[one], self.over[other])
        return first + self.cost[other] + (slots - 1) * max(self.under[other], self.over[one])

    def worst(self) -> tuple[float, int, int]:
        """The largest gap and the places of the two."""
        found = (0.0, 0, 0)
        for one in range(len(self.user)):
            for other in range(one + 1, len(self.user)):
                found = max(found, (self.largest[one][other], one, other), key=lambda entry: entry[0])
        return found

    def ratio(self, slots: int) -> float:
        """The largest share of its bound that a pair used: above 1 the promise is broken."""
        pairs = ((one, other) for one in range(len(self.user)) for other in range(one + 1, len(self.user)))
        return max(
            (
                self.largest[one][other] / self.bound(one, other, slots)
                for one, other in pairs
                if self.largest[one][other] > 0
            ),
            default=0.0,
        )
