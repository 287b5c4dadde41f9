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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fairlead.accounts import Flow, Standing
from fairlead.clock import SECOND_NS
from fairlead.core.scheduler import VIRTUAL_UNIT
from fairlead.users import OTHER, Users

TOP_USERS: Final = 20
NAMED_MAX: Final = 200


class UserNumbers(Protocol):
    """What is read of the driver."""

    def pool_name(self, pool: int) -> str: ...
    def place_user(self, pool: int, place: int, user: int) -> dict[str, int]: ...


@dataclass(slots=True)
class Row:
    """One name in one pool; service in the core's units. lag: behind virtual time, None: the core knows none."""

    service: int = 0
    fair: float = 0.0
    waits: int = 0
    wait_ns: int = 0
    waiting: int = 0
    running: int = 0
    lag: int | None = None

    def add(self, flow: Flow) -> None:
        self.service += flow.service
        self.fair += flow.fair
        self.waits += flow.waits
        self.wait_ns += flow.wait_ns

    def add_now(self, user: Mapping[str, int]) -> None:
        """It may be in several tiers, and two users may have one name, in a header and as an address: the larger lag
        is told."""
        if user:
            self.waiting += user["waiting"]
            self.running += user["running"]
            lag = user["virtual_time"] - user["virtual_start"]
            self.lag = lag if self.lag is None else max(self.lag, lag)


class UserFamilies:
    """unit: the core's cost of what a person counts as one."""

    def __init__(self, users: Users, unit: int, driver: UserNumbers) -> None:
        self._users = users
        self._unit = unit
        self._driver = driver
        self._shown: set[str] = set()

    def collect(self, pools: Mapping[int, Mapping[str, int]], standings: Mapping[int, Standing]) -> Iterator[Metric]:
        """pools: the core's numbers of those in standings."""
        self._shown = self._choose(standings)
        virtual_unit = VIRTUAL_UNIT * self._unit
        jain = GaugeMetricFamily("fairlead_jain_index", "1: the window's service was divided fairly.", labels=["pool"])
        time = GaugeMetricFamily("fairlead_virtual_time", "Of the pool: service per unit of weight.", labels=["pool"])
        names = {pool: self._driver.pool_name(pool) for pool in standings}
        for pool, standing in standings.items():
            jain.add_metric([names[pool]], standing.jain)
            time.add_metric([names[pool]], pools[pool]["virtual_time"] / virtual_unit)
        yield jain
        yield time
        rows = {pool: self._rows(pool, standing, pools[pool]) for pool, standing in standings.items()}
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
            for pool, its in rows.items():
                for user, row in its.items():
                    number = value(row, standings[pool].service)
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

    def _choose(self, standings: Mapping[int, Standing]) -> set[str]:
        sizes: Counter[str] = Counter()
        for pool in standings.values():
            for flow in pool.flows:
                if flow.account.name != OTHER:
                    sizes[flow.account.name] += max(flow.service, int(flow.fair))
        ranked = sorted(sizes, key=lambda name: (-sizes[name] * (2 if name in self._shown else 1), name))
        return set(ranked[:TOP_USERS])

    def _rows(self, pool: int, standing: Standing, core: Mapping[str, int]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        other = Row(waiting=core["waiting"], running=core["running"])
        for flow in standing.flows:
            name = flow.account.name
            if name not in self._shown:
                other.add(flow)
                continue
            row = rows.setdefault(name, Row())
            row.add(flow)
            row.add_now(self._driver.place_user(pool, flow.place.number, flow.account.key))
        for row in rows.values():
            other.waiting -= row.waiting
            other.running -= row.running
        return rows | {OTHER: other}
