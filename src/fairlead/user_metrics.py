"""Users in /metrics: few names, whoever comes, and counters that never go back.

Promise: a label ``user`` is one of the first NAMED_MAX names of the configuration, one of at most TOP_USERS others, or
``other``, which stands for everybody else. A user who is called that is one of them.

Theory. A counter must not go back, so no user may join a series that has counted others, or leave one. Counters are
therefore kept for the users whom the configuration names; all others are ``other`` for good. What may move are gauges:
they are about the moment and the window, and have those users who had most service in it or were due most. One who is
shown stays until another has twice as much, so that names don't come and go with every scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fairlead.accounts import Flow, Standing
from fairlead.clock import SECOND_NS
from fairlead.core.scheduler import VIRTUAL_UNIT
from fairlead.pieces import pieces, smallest
from fairlead.users import OTHER, Users

TOP_USERS: Final = 20
NAMED_MAX: Final = 200


class UserNumbers(Protocol):
    """What is read of the driver."""

    def pool_name(self, pool: int) -> str: ...
    def place_user(self, pool: int, place: int, user: int) -> dict[str, int]: ...


@dataclass(slots=True)
class Row:
    """One name in one pool; service in the core's units. flows: of one that is shown, for ``look``, which fills in what
    follows them; lag: behind virtual time, None: the core knows none."""

    service: int = 0
    fair: float = 0.0
    waits: int = 0
    wait_ns: int = 0
    flows: list[Flow] = field(default_factory=list)
    waiting: int = 0
    running: int = 0
    lag: int | None = None

    def add(self, flow: Flow) -> None:
        self.service += flow.service
        self.fair += flow.fair
        self.waits += flow.waits
        self.wait_ns += flow.wait_ns

    def look(self, pool: int, driver: UserNumbers) -> None:
        """It may be in several tiers, and two users may have one name, in a header and as an address: the larger lag
        is told."""
        for flow in self.flows:
            user = driver.place_user(pool, flow.place.number, flow.account.key)
            if user:
                self.waiting += user["waiting"]
                self.running += user["running"]
                lag = user["virtual_time"] - user["virtual_start"]
                self.lag = lag if self.lag is None else max(self.lag, lag)


@dataclass(slots=True)
class Figures:
    """What was added up of a pool, by name. As all its rows are of one pass, their shares add up to 1."""

    jain: float
    rows: dict[str, Row]

    @property
    def service(self) -> int:
        return sum(row.service for row in self.rows.values())

    def look(self, pool: int, core: Mapping[str, int], driver: UserNumbers) -> None:
        """Ask for what is true now, once."""
        other = self.rows[OTHER]
        other.waiting, other.running = core["waiting"], core["running"]
        for row in self.rows.values():
            if row is not other:
                row.look(pool, driver)
                other.waiting -= row.waiting
                other.running -= row.running


class UserFamilies:
    """unit: the core's cost of what a person counts as one."""

    def __init__(self, users: Users, unit: int, driver: UserNumbers) -> None:
        self._users = users
        self._unit = unit
        self._driver = driver
        self._shown: set[str] = set()

    async def add_up(self, standings: Mapping[int, Standing]) -> dict[int, Figures]:
        """By pool, in pieces: what is added up, and who is shown, is of moments a few turns of the loop apart."""
        shown = self._shown = await self._choose(standings)
        return {pool: Figures(standing.jain, await _rows(standing, shown)) for pool, standing in standings.items()}

    def collect(self, pools: Mapping[int, Mapping[str, int]], figures: Mapping[int, Figures]) -> Iterator[Metric]:
        """pools: the core's numbers of those in figures, which are used up."""
        virtual_unit = VIRTUAL_UNIT * self._unit
        jain = GaugeMetricFamily("fairlead_jain_index", "1: the window's service was divided fairly.", labels=["pool"])
        time = GaugeMetricFamily("fairlead_virtual_time", "Of the pool: service per unit of weight.", labels=["pool"])
        names = {pool: self._driver.pool_name(pool) for pool in figures}
        for pool, its in figures.items():
            its.look(pool, pools[pool], self._driver)
            jain.add_metric([names[pool]], its.jain)
            time.add_metric([names[pool]], pools[pool]["virtual_time"] / virtual_unit)
        yield jain
        yield time
        values: tuple[tuple[str, str, Callable[[Row, int], float | None]], ...] = (
            ("share", "Part of the pool's service in the window.", lambda row, total: row.service / max(total, 1)),
            ("fair_share", "Part that was due to the user.", lambda row, total: row.fair / max(total, 1)),
            ("waiting", "Requests that wait.", lambda row, _: row.waiting),
            ("in_flight", "Requests at nodes.", lambda row, _: row.running),
            ("wait_seconds", "Mean wait in the window.", lambda row, _: row.wait_ns / max(row.waits, 1) / SECOND_NS),
            (
                "lag",
                "Virtual time less the user's own: what it is owed, per unit of weight.",
                lambda row, _: None if row.lag is None else row.lag / virtual_unit,
            ),
        )
        for name, documentation, value in values:
            family = GaugeMetricFamily(f"fairlead_user_{name}", documentation, labels=["pool", "user"])
            for pool, its in figures.items():
                total = its.service
                for user, row in its.rows.items():
                    number = value(row, total)
                    if number is not None:
                        family.add_metric([names[pool], user], number)
            yield family
        yield from self._counters()

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "fairlead_user_requests", "Requests that have ended, by how.", labels=["user", "outcome"]
        )
        service = CounterMetricFamily(
            "fairlead_user_service", "What those were charged: requests, or priced tokens.", labels=["user"]
        )
        tokens = CounterMetricFamily("fairlead_user_tokens", "Tokens, where they were read.", labels=["user", "kind"])
        for name, counts in self._users.series.items():
            for outcome, count in counts.outcomes.items():
                requests.add_metric([name, outcome], count)
            service.add_metric([name], counts.service / self._unit)
            for kind in ("input", "cached", "output"):
                tokens.add_metric([name, kind], getattr(counts, kind))
        yield requests
        yield service
        yield tokens

    async def _choose(self, standings: Mapping[int, Standing]) -> set[str]:
        sizes: Counter[str] = Counter()
        for standing in standings.values():
            async for flows in pieces(standing.flows):
                for flow in flows:
                    sizes[flow.account.name] += max(flow.service, int(flow.fair))
        del sizes[OTHER]
        shown = self._shown

        def rank(name: str) -> tuple[int]:
            return (-sizes[name] * (2 if name in shown else 1),)

        return set(await smallest(TOP_USERS, list(sizes), rank))


async def _rows(standing: Standing, shown: Collection[str]) -> dict[str, Row]:
    rows = {OTHER: Row()}
    async for flows in pieces(standing.flows):
        for flow in flows:
            name = flow.account.name
            if name in shown:
                row = rows.setdefault(name, Row())
                row.flows.append(flow)
            else:
                row = rows[OTHER]
            row.add(flow)
    return rows
