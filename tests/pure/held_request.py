"""A request without a client, for the tests of where requests go."""

from __future__ import annotations

from fairlead.core.scheduler import NEVER
from fairlead.ticket import Ticket


class Request(Ticket):
    """It only holds its place, which may be a pool."""

    def __init__(self, pool: int, place: int | None = None, user: int = 1) -> None:
        self.handle = self.node = 0
        self.pool, self.place = pool, pool if place is None else place
        self.user = user
        self.weight = self.cost = self.width = 1
        self.size_bytes = self.running_max = self.waiting_max = 0
        self.deadline_ns = NEVER

    def on_dispatch(self, node: int, now_ns: int) -> None:
        self.node = node
