"""What the router measures, and how Prometheus reads it.

Promise: a request costs a few additions here; everything else happens when somebody scrapes. What the core counts is
read from the core, so that no two ledgers can disagree. Labels are the words below and configured names, nothing that
a client can choose.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from fairlead.clock import SECOND_NS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From a millisecond to an hour: a queue's waits and a generation's lengths share the scale.
BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, 3600.0)
_BOUNDS_NS: Final = tuple(int(bound * SECOND_NS) for bound in BOUNDS_S)

_BUCKET_NS: Final = 60 * SECOND_NS
_BUCKETS: Final = 60


class Histogram:
    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_NS) + 1)
        self.sum_ns = 0

    def observe(self, value_ns: int) -> None:
        self.counts[bisect_left(_BOUNDS_NS, value_ns)] += 1
        self.sum_ns += value_ns

    def family(self, name: str, documentation: str) -> Metric:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self.sum_ns / SECOND_NS)


class Hour:
    """Sums over the last hour, in buckets of a minute."""

    FIELDS: Final = ("dispatched", "waited_ns", "ended", "processed_ns", "timeouts", "rejected")

    __slots__ = ("_minute", "_sums")

    def __init__(self) -> None:
        self._minute = 0
        self._sums = [dict.fromkeys(self.FIELDS, 0) for _ in range(_BUCKETS)]

    def bucket(self, now_ns: int) -> dict[str, int]:
        """The sums of this minute, to be added to."""
        minute = now_ns // _BUCKET_NS
        for each in range(max(self._minute, minute - _BUCKETS) + 1, minute + 1):
            self._sums[each % _BUCKETS] = dict.fromkeys(self.FIELDS, 0)
        self._minute = minute
        return self._sums[minute % _BUCKETS]

    def sums(self, now_ns: int) -> dict[str, int]:
        self.bucket(now_ns)
        return {field: sum(each[field] for each in self._sums) for field in self.FIELDS}


class Meter:
    """What the gateway tells. The rest is known to the core and to the registry of nodes."""

    def __init__(self) -> None:
        self.wait = Histogram()
        self.duration = Histogram()
        self.first_byte = Histogram()
        self.hour = Hour()
        self.rejected: dict[str, int] = {}  # by error code: answered before the queue
        # Taken out of the queue by the router, not by their clients: the core has them among the cancelled.
        self.withdrawn = {"refused": 0, "drained": 0}
        self.priced = {"usage": 0, "events": 0, "estimate": 0}  # under token_wfq, by what the price was made of

    def reject(self, code: str) -> None:
        """A request that never was offered to the queue: its code is one of errors.CODES."""
        self.rejected[code] = self.rejected.get(code, 0) + 1

    def refuse(self, now_ns: int) -> None:
        self.hour.bucket(now_ns)["rejected"] += 1

    def expire(self, now_ns: int) -> None:
        self.hour.bucket(now_ns)["timeouts"] += 1

    def dispatch(self, now_ns: int, waited_ns: int) -> None:
        self.wait.observe(waited_ns)
        bucket = self.hour.bucket(now_ns)
        bucket["dispatched"] += 1
        bucket["waited_ns"] += waited_ns

    def finish(self, now_ns: int, processed_ns: int, duration_ns: int) -> None:
        self.duration.observe(duration_ns)
        bucket = self.hour.bucket(now_ns)
        bucket["ended"] += 1
        bucket["processed_ns"] += processed_ns

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
            "rejected": sum(self.rejected.values()),
        }


class PoolNumbers(Protocol):
    """What is read of the driver."""

    def counters(self) -> dict[str, int]: ...
    def pools(self) -> list[int]: ...
    def pool_name(self, pool: int) -> str: ...
    def pool_numbers(self, pool: int) -> dict[str, int]: ...
    def node_numbers(self, node: int) -> dict[str, int]: ...


class Exposition:
    """A Prometheus registry of its own, with one collector that looks when it is asked."""

    def __init__(self, meter: Meter, driver: PoolNumbers, nodes: NodeHandles) -> None:
        self._meter = meter
        self._driver = driver
        self._nodes = nodes
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would collect at once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        meter, counters = self._meter, self._driver.counters()
        yield _counter("fairlead_requests", "Requests that have ended, by how.", "outcome", meter.outcomes(counters))
        yield _counter("fairlead_rejected", "Requests answered before the queue, by code.", "code", meter.rejected)
        yield _counter("fairlead_requests_priced", "Requests priced in tokens, by what from.", "by", meter.priced)
        requeued = CounterMetricFamily("fairlead_requeued", "Returns to the queue because a node was out of reach.")
        requeued.add_metric([], counters["requeued"])
        yield requeued
        pools = {self._driver.pool_name(pool): self._driver.pool_numbers(pool) for pool in self._driver.pools()}
        depth = {pool: numbers["waiting"] for pool, numbers in pools.items()}
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
