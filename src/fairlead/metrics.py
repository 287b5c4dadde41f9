"""What the router measures, and how Prometheus reads it.

Promise: a request costs a few additions here; everything else happens when somebody scrapes. What the core counts is
read from the core, so that no two ledgers can disagree. Labels are the words below, configured names, and the names of
few users (see user_metrics).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol, cast

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from fairlead.clock import SECOND_NS
from fairlead.errors import ApiError
from fairlead.pieces import pieces
from fairlead.policy import TOKEN_POLICY, cost_unit
from fairlead.records import Recorded, RequestLog
from fairlead.ticket import Ticket
from fairlead.user_metrics import NAMED_MAX, Figures, UserFamilies
from fairlead.users import Users

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From a millisecond to an hour: a queue's waits and a generation's lengths share the scale.
BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, 3600.0)
_BOUNDS_NS: Final = tuple(int(bound * SECOND_NS) for bound in BOUNDS_S)

_MINUTE_NS: Final = 60 * SECOND_NS
_MINUTES: Final = 60


class Histogram:
    """Of times, by BOUNDS_S."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_NS) + 1)
        self.sum_ns = 0

    def observe(self, value_ns: int) -> None:
        bounds, at = _BOUNDS_NS, 0
        for bound_ns in bounds:
            if value_ns <= bound_ns:
                break
            at += 1
        self.counts[at] += 1
        self.sum_ns += value_ns

    def family(self, name: str, documentation: str) -> Metric:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self.sum_ns / SECOND_NS)


class Minute:
    """Sums of one minute, or of more."""

    def __init__(self) -> None:
        self.dispatched = self.waited_ns = self.ended = self.processed_ns = self.timeouts = self.rejected = 0

    def add(self, other: Minute) -> None:
        self.dispatched += other.dispatched
        self.waited_ns += other.waited_ns
        self.ended += other.ended
        self.processed_ns += other.processed_ns
        self.timeouts += other.timeouts
        self.rejected += other.rejected


class Hour:
    """Sums over the last hour, a minute each."""

    def __init__(self) -> None:
        self._minute = 0
        self._minutes = [Minute() for _ in range(_MINUTES)]

    def minute(self, now_ns: int) -> Minute:
        """The sums of this minute, to be added to."""
        minute = now_ns // _MINUTE_NS
        if minute != self._minute:
            self._turn(minute)
        return self._minutes[minute % _MINUTES]

    def _turn(self, minute: int) -> None:
        for each in range(max(self._minute, minute - _MINUTES) + 1, minute + 1):
            self._minutes[each % _MINUTES] = Minute()
        self._minute = minute

    def sums(self, now_ns: int) -> Minute:
        self.minute(now_ns)
        total = Minute()
        for each in self._minutes:
            total.add(each)
        return total


class Meter:
    """What the gateway and its calls tell, once each: a call enters, is dispatched (again, if it was requeued), ends.

    policy: queue.policy. named: the users of the configuration. log None: no line is written.
    """

    def __init__(self, policy: str, named: Iterable[str] = (), log: RequestLog | None = None) -> None:
        self.log = log
        self.users = Users(islice(named, NAMED_MAX))
        self.unit = cost_unit(policy)
        self.wait = Histogram()
        self.duration = Histogram()
        self.first_byte = Histogram()
        self.hour = Hour()
        self.rejections: dict[str, int] = {}  # by error code: answered before the queue
        # Taken out of the queue by the router, not by their clients: the core has them among the cancelled.
        self.withdrawn = {"refused": 0, "drained": 0}
        self.priced = {"usage": 0, "events": 0, "estimate": 0}  # under token_wfq, by what the price was made of
        self._by_token = policy == TOKEN_POLICY

    def rejected(self, request_id: str, path: str, error: ApiError) -> None:
        """A request that never was offered to the queue."""
        self.rejections[error.code] = self.rejections.get(error.code, 0) + 1
        if self.log is not None:
            self.log.rejected(request_id, path, error)

    def entered(self, call: Ticket, now_ns: int) -> None:
        """It is offered to the queue next. ``ended`` follows in any case."""
        self.users.entered(call, now_ns)

    def moved(self, call: Ticket, pool: int, place: int, now_ns: int) -> None:
        """It waits, and does so there next."""
        self.users.moved(call, pool, place, now_ns)

    def dispatched(self, call: Ticket, now_ns: int) -> None:
        if not call.requeues:
            self.wait.observe(call.waited_ns)
            minute = self.hour.minute(now_ns)
            minute.dispatched += 1
            minute.waited_ns += call.waited_ns
        self.users.dispatched(call, now_ns)

    def requeued(self, call: Ticket) -> None:
        """It gives its lease back and waits again next."""
        self.users.requeued(call)

    def ended(self, call: Ticket, outcome: str, cost: int, now_ns: int) -> None:
        """outcome: one of accounts.OUTCOMES; cost: what it is charged. Before its place or lease is given to others."""
        minute = self.hour.minute(now_ns)
        if call.tally is not None:
            self.duration.observe(now_ns - call.entered_ns)
            minute.ended += 1
            minute.processed_ns += now_ns - call.dispatched_ns
        elif outcome == "expired":
            minute.timeouts += 1
        elif outcome in ("refused", "pushed_out"):
            minute.rejected += 1
        bill = call.bill
        if self._by_token and bill is not None and bill.by:
            self.priced[bill.by] += 1
        if self.log is not None:
            self.log.ended(cast(Recorded, call), outcome, cost, now_ns)
        self.users.ended(call, outcome, cost, now_ns)

    def outcomes(self, counters: dict[str, int]) -> dict[str, int]:
        """Every request that has ended, by how. The words are those of the label ``outcome``."""
        return {
            "completed": counters["completed"],
            "failed": counters["failed"],
            "cancelled": counters["cancelled"] - sum(self.withdrawn.values()),
            "expired": counters["expired"],
            "no_node": counters["no_node"],
            "pushed_out": counters["pushed_out"],
            "refused": counters["refused"] + self.withdrawn["refused"],
            "drained": self.withdrawn["drained"],
            "rejected": sum(self.rejections.values()),
        }


class PoolNumbers(Protocol):
    """What is read of the driver."""

    def now_ns(self) -> int: ...
    def counters(self) -> dict[str, int]: ...
    def pools(self) -> list[int]: ...
    def pool_name(self, pool: int) -> str: ...
    def pool_numbers(self, pool: int) -> dict[str, int]: ...
    def place_user(self, pool: int, place: int, user: int) -> dict[str, int]: ...
    def node_numbers(self, node: int) -> dict[str, int]: ...


class Exposition:
    """What there is to read, as text. It looks when it is asked."""

    def __init__(self, meter: Meter, driver: PoolNumbers, nodes: NodeHandles) -> None:
        self._meter = meter
        self._driver = driver
        self._nodes = nodes
        self._users = UserFamilies(meter.users, meter.unit, driver)

    async def text(self) -> bytes:
        standings = await self._meter.users.standings(self._driver.now_ns(), self._driver.pools())
        figures = await self._users.add_up(standings)
        lines: list[bytes] = []
        for family in list(self._families(figures)):  # all of one moment, whatever happens while they are written
            head = generate_latest(_Part(family, ()))
            lines.append(head)
            async for samples in pieces(family.samples):
                lines.append(generate_latest(_Part(family, samples)).removeprefix(head))
        return b"".join(lines)

    def _families(self, figures: dict[int, Figures]) -> Iterator[Metric]:
        meter, counters = self._meter, self._driver.counters()
        yield _counter("fairlead_requests", "Requests that have ended, by how.", "outcome", meter.outcomes(counters))
        yield _counter("fairlead_rejected", "Requests answered before the queue, by code.", "code", meter.rejections)
        yield _counter("fairlead_requests_priced", "Requests priced in tokens, by what from.", "by", meter.priced)
        requeued = CounterMetricFamily("fairlead_requeued", "Returns to the queue because a node was out of reach.")
        requeued.add_metric([], counters["requeued"])
        yield requeued
        pools = {pool: self._driver.pool_numbers(pool) for pool in self._driver.pools()}
        depth = {self._driver.pool_name(pool): numbers["waiting"] for pool, numbers in pools.items()}
        yield _gauge("fairlead_queue_depth", "Requests that wait.", "pool", depth)
        yield meter.wait.family("fairlead_queue_wait_seconds", "Wait of the requests that were dispatched.")
        yield meter.first_byte.family("fairlead_time_to_first_byte_seconds", "From the request to its answer's begin.")
        yield meter.duration.family("fairlead_request_duration_seconds", "From the request to the end of its answer.")
        nodes = {name: self._driver.node_numbers(handle) for name, handle in self._nodes.handles()}
        up = {name: float(numbers.get("state") == 1) for name, numbers in nodes.items()}
        yield _gauge("fairlead_node_up", "1: the node is given work.", "node", up)
        for name, field, documentation in (
            ("fairlead_in_flight", "leases", "Requests that the router has in the node's slots."),
            ("fairlead_cheap_in_flight", "cheap_leases", "The same for /tokenize, /detokenize and count_tokens."),
            ("fairlead_node_slots", "slots", "Requests that the node may have."),
            ("fairlead_node_others", "others", "Requests that the node has from elsewhere."),
        ):
            values = {node: float(numbers.get(field, 0)) for node, numbers in nodes.items()}
            yield _gauge(name, documentation, "node", values)
        score = {node: numbers.get("score", 0) / 1e9 for node, numbers in nodes.items()}
        yield _gauge("fairlead_node_score", "The smallest is chosen (in 1e-9 points under score_raw).", "node", score)

        figures = {pool: its for pool, its in figures.items() if pool in pools}  # some may have gone since
        yield from self._users.collect(pools, figures)
        lost = CounterMetricFamily("fairlead_log_lines_lost", "Lines of the request log that could not be written.")
        lost.add_metric([], 0 if meter.log is None else meter.log.lost)
        yield lost


class _Part(Collector):
    """Some samples of a family, in the shape in which the library writes them."""

    def __init__(self, family: Metric, samples: Sequence[Sample]) -> None:
        self._metric = Metric(family.name, family.documentation, family.type)
        self._metric.samples = list(samples)

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


class NodeHandles(Protocol):
    """What is read of the registry of nodes."""

    def handles(self) -> Iterable[tuple[str, int]]:
        """(configured name, the core's handle) of every node."""


def _counter(name: str, documentation: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, documentation: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
