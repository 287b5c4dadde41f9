"""Users, their requests and a clock, for the tests of the live figures."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fairlead.accounts import Flow, Standing
from fairlead.ticket import Ticket
from fairlead.users import Users

Result = TypeVar("Result")
NAMES = {1: "alice", 2: "bob", 3: "carol", 4: "dave", 5: "erin"}


class Call(Ticket):
    """What is read of a call, and nothing else."""

    def __init__(self, user: int, **fields: Any) -> None:
        self.user, self.user_name = user, NAMES.get(user, f"user {user}")
        self.tier = self.weight = self.cost = 1
        for name, value in fields.items():
            setattr(self, name, value)


class World:
    """The table and its clock. Requests of a user wait in a list and are served in that order."""

    def __init__(self, users: Users | None = None) -> None:
        self.users = users or Users()
        self.now_ns = 0
        self.waiting: dict[int, list[Call]] = {}

    def ask(self, user: int, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            call = Call(user, **fields)
            self.users.entered(call, self.now_ns)
            self.waiting.setdefault(user, []).append(call)

    def start(self, user: int) -> Call:
        call = self.waiting[user].pop(0)
        self.users.dispatched(call, self.now_ns)
        return call

    def serve(self, *turns: int) -> None:
        for user in turns:
            self.end(self.start(user))

    def end(self, call: Call, outcome: str = "completed", cost: int | None = None) -> None:
        self.users.ended(call, outcome, call.cost if cost is None else cost, self.now_ns)

    def look(self, pools: tuple[int, ...] = (0,), meanwhile: Callable[[], None] = lambda: None) -> dict[int, Standing]:
        return drive(self.users.standings(self.now_ns, pools), meanwhile)

    def shares(self, pool: int = 0) -> dict[str, tuple[float, float]]:
        """(service, fair share) by name."""
        flows = self.look((0, 1))[pool].flows
        return {flow.account.name: (flow.service, round(flow.fair, 6)) for flow in flows}

    @property
    def jain(self) -> float:
        return self.look()[0].jain


def drive(looking: Coroutine[Any, Any, Result], meanwhile: Callable[[], None] = lambda: None) -> Result:
    """To its end, with something else at each turn that it leaves to others."""
    while True:
        try:
            looking.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        meanwhile()


def all_flows(world: World) -> list[Flow]:
    return [flow for account in world.users.accounts.values() for flow in account.flows.values()]
