"""Who gets what: live figures of every user, and how fair the division of each pool is.

Promise: a request costs a few additions, whoever looks pays for the rest. The table is bounded: of the users who have
nothing in the router the least recently seen is forgotten; its counts go on in ``forgotten``, what it had in the window
in ``surplus``. Counters never go back, whoever comes and goes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final

from fairlead.accounts import (
    ABSENT,
    BUCKET_NS,
    CONTENDING,
    PRESENT,
    Account,
    Counts,
    Division,
    Flow,
    Place,
    Standing,
    divide,
)
from fairlead.pieces import pieces
from fairlead.ticket import Ticket

USERS_MAX: Final = 10_000
_BUCKET_NS: Final = BUCKET_NS  # here it is C's
OTHER: Final = "other"


class Users:
    """named: users that have counters of their own in /metrics, for good."""

    def __init__(self, named: Iterable[str] = (), *, users_max: int = USERS_MAX) -> None:
        self.accounts: dict[int, Account] = {}  # by the core's key
        self.forgotten = Counts()
        self.forgotten_users = 0
        self.series = {OTHER: Counts()} | {name: Counts() for name in named if name != OTHER}
        self._users_max = users_max
        self._idle: OrderedDict[int, Account] = OrderedDict()  # the least recently seen first
        self._places: dict[int, Place] = {}
        # Of users for whom there is no room because as many as there may be have requests in the router, and of those
        # who were forgotten. It weighs nothing, so it has a service but no fair share.
        self.surplus = Account(-1, OTHER, self.series[OTHER])

    # What happens to a call ----------------------------------------------------------------------

    def entered(self, call: Ticket, now_ns: int) -> None:
        """It is offered to the queue; whatever becomes of it, ``ended`` follows."""
        account = self.accounts.get(call.user)
        if account is None:
            account = self._admit(call)
        if not account.held:
            self._idle.pop(account.key, None)
        account.held += 1
        if account.running_max != call.running_max:
            account.running_max = call.running_max
            for flow in account.flows.values():
                _update(account, flow)
        self._join(call, account, call.pool, call.place, now_ns)

    def moved(self, call: Ticket, pool: int, place: int, now_ns: int) -> None:
        """It waits there from now on."""
        flow: Flow = call.flow
        flow.place.turn(now_ns // _BUCKET_NS)
        flow.waiting -= 1
        _update(flow.account, flow)
        self._join(call, flow.account, pool, place, now_ns)

    def dispatched(self, call: Ticket, now_ns: int) -> None:
        flow: Flow = call.flow
        account = flow.account
        flow.place.turn(now_ns // _BUCKET_NS)
        call.tally = flow.dispatched(call.cost, -1 if call.requeues else call.waited_ns)
        flow.waiting -= 1
        flow.running += 1
        account.running += 1
        _update(account, flow)

    def requeued(self, call: Ticket) -> None:
        """It waits again, and its charge was taken back."""
        flow: Flow = call.flow
        _stopped(call, flow, -call.cost)
        flow.waiting += 1
        _update(flow.account, flow)

    def ended(self, call: Ticket, outcome: str, cost: int, now_ns: int) -> None:
        """outcome: one of OUTCOMES; cost: what it is charged in the end."""
        flow: Flow = call.flow
        account = flow.account
        flow.place.turn(now_ns // _BUCKET_NS)
        if call.tally is None:
            flow.waiting -= 1
        else:
            _stopped(call, flow, cost - call.cost)
        account.counts.count(outcome, cost, call.bill)
        account.series.count(outcome, cost, call.bill)
        _update(account, flow)
        account.held -= 1
        if not account.held and account is not self.surplus:
            self._idle[account.key] = account

    def _admit(self, call: Ticket) -> Account:
        if len(self.accounts) >= self._users_max:
            if not self._idle:
                return self.surplus
            self._forget(self._idle.popitem(last=False)[1])
        account = Account(call.user, call.user_name, self.series.get(call.user_name, self.series[OTHER]))
        self.accounts[call.user] = account
        return account

    def _forget(self, idle: Account) -> None:
        """What it had in the window goes on in the surplus: else everybody's share would seem larger than it was."""
        del self.accounts[idle.key]
        self.forgotten.add(idle.counts)
        self.forgotten_users += 1
        for number, flow in idle.flows.items():
            if self._places.get(number) is flow.place:
                self._flow(self.surplus, flow.place).absorb(flow)
        idle.flows.clear()  # they hold it, too: else it would stay until the collector of cycles comes

    def _flow(self, account: Account, place: Place) -> Flow:
        flow = account.flows.get(place.number)
        if flow is None or flow.place is not place:
            flow = account.flows[place.number] = Flow(account, place)
        return flow

    def _join(self, call: Ticket, account: Account, pool: int, number: int, now_ns: int) -> None:
        """Let it wait there."""
        bucket = now_ns // _BUCKET_NS
        what = (pool, call.tier, call.team)
        place = self._places.get(number)
        if place is None or place.what != what:  # the core gives the number of what is forgotten to another
            place = self._places[number] = Place(number, what, bucket)
        place.turn(bucket)
        flow = self._flow(account, place)
        if flow.weight != call.weight and account is not self.surplus:
            flow.weigh(call.weight)
        flow.waiting += 1
        call.flow, call.tally = flow, None
        _update(account, flow)

    # Looking -------------------------------------------------------------------------------------

    def held(self) -> tuple[int, int]:
        """Requests that wait and that run, counted one by one: for the invariants."""
        flows = [flow for account in self._everybody() for flow in account.flows.values()]
        return sum(flow.waiting for flow in flows), sum(flow.running for flow in flows)

    async def standings(self, now_ns: int, pools: Collection[int]) -> dict[int, Standing]:
        """The window, by pool. pools: those that there are; others are forgotten, their numbers may be given again.

        In pieces, so each user is seen at another moment, a few turns of the loop apart. One who is forgotten between
        may be counted twice, in the surplus as well; a place that comes about is left for the next look.
        """
        bucket = now_ns // _BUCKET_NS
        for number in [number for number, place in self._places.items() if place.pool not in pools]:
            del self._places[number]
        for place in self._places.values():
            place.turn(bucket)
        found = {place: Division() for place in self._places.values()}
        async for accounts in pieces(self._everybody()):
            for account in accounts:
                for number, flow in list(account.flows.items()):
                    if self._places.get(number) is not flow.place or not flow.look(bucket):
                        del account.flows[number]
                    elif flow.place in found:
                        found[flow.place].add(flow)
        by_pool: dict[int, list[Division]] = {pool: [] for pool in pools}
        for place, division in found.items():
            if division.flows:
                by_pool[place.pool].append(division)
        return {pool: await divide(places) for pool, places in by_pool.items()}

    def _everybody(self) -> list[Account]:
        return [*self.accounts.values(), self.surplus]


def _stopped(call: Ticket, flow: Flow, difference: int) -> None:
    """It gave its slot back; its charge changes by the difference."""
    flow.correct(call.tally, difference)
    call.tally = None
    flow.running -= 1
    flow.account.running -= 1


def _update(account: Account, flow: Flow) -> None:
    """The flow's numbers have changed. Who waits because of its own limit is not kept waiting by others."""
    if account.running_max:
        waits = PRESENT if account.running >= account.running_max else CONTENDING
        for each in account.flows.values():
            state = waits if each.waiting else PRESENT if each.running else ABSENT
            if state != each.state:
                each.change(state)
    else:
        state = CONTENDING if flow.waiting else PRESENT if flow.running else ABSENT
        if state != flow.state:
            flow.change(state)
