"""The router's own scheduler core in virtual time: who would have waited how long.

An event loop over a heap: arrivals, ends, first tokens, failures and repairs of nodes, deadlines. Every event is
followed by a drain of the core, as in the router. Nothing reads a clock and every random number comes from the seed:
the same requests and settings give the same result, bit for bit. Times are nanoseconds from the first arrival.

A node serves ``slots`` requests at once. A request takes ``ttft_ms`` and then ``token_ms`` per output token, which
grows with the number of requests that produce tokens beside it (``batch_slope``), or ``fixed_service_s`` in all.
All nodes serve all models, which makes them one pool, as in the router: a user has one share, whatever the models.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from fairlead.core import scheduler as core
from fairlead.errors import ConfigError
from fairlead.policy import PRICES, TokenPrices
from fairlead.simulate_gap import GapMeter
from fairlead.workload import SECONDS_MAX, Trace

UNSEEN, COMPLETED, FAILED, REFUSED, PUSHED_OUT, EXPIRED, NO_NODE = range(7)
OUTCOMES: Final = ("unseen", "completed", "failed", "refused", "pushed_out", "expired", "no_node")
ENDED_BY_CORE: Final = {core.EXPIRED: EXPIRED, core.NO_NODE: NO_NODE, core.PUSHED_OUT: PUSHED_OUT}
END, JOIN, NODE_TOKEN, NODE_DOWN, NODE_UP = range(5)
PROGRESS_EVERY: Final = 8192  # requests
DECISIONS_MAX: Final = 4096
TIME_MAX_NS: Final = round(SECONDS_MAX * 1e9)
EVENTS_MAX: Final = 2_000_000  # and 100 for each request: nodes that fail all the time would never be done


@dataclass(frozen=True, slots=True)
class Settings:
    """Nodes, limits and prices. ``queue_limit`` 0: no limit; ``timeout_s`` and ``mtbf_s`` 0: none."""

    nodes: int = 1
    slots: int = 23
    ttft_ms: float = 0.0
    token_ms: float = 45.1
    batch_slope: float = 0.0
    fixed_service_s: float = 0.0
    mtbf_s: float = 0.0
    mttr_s: float = 30.0
    queue_limit: int = 0
    timeout_s: float = 0.0
    price_input: int = 1
    price_output: int = 2
    weights: Mapping[str, int] = field(default_factory=dict)
    seed: int = 1


@dataclass(slots=True)
class Result:
    """What one policy did. Per request: outcome, start (of its last dispatch, -1: none) and end, service in tokens."""

    policy: str
    settings: Settings
    outcome: bytearray
    start_ns: array[int]
    end_ns: array[int]
    service: array[int]
    counters: dict[str, int]
    requeued: int
    output_tokens: int
    dispatched_in_load: list[int]  # per user: service dispatched up to the last arrival
    gap: GapMeter
    slots: int


@dataclass(slots=True)
class _Node:
    handle: int
    draw: random.Random
    leases: dict[int, int] = field(default_factory=dict)  # request -> attempt, oldest first
    # With a batch slope: tokens that each stream has had since the start, and where each stream ends.
    tokens: float = 0.0
    at_ns: int = 0
    ends: list[tuple[float, int, int]] = field(default_factory=list)
    joined: dict[int, float] = field(default_factory=dict)
    version: int = 0


class Simulation:
    """One run of one policy over a trace."""

    def __init__(self, trace: Trace, settings: Settings, policy: str) -> None:
        self.trace, self.settings, self.policy = trace, settings, policy
        count = len(trace)
        # No more can wait or run than there are.
        waiting = min(settings.queue_limit or count, count)
        running = min(settings.nodes * settings.slots, count)
        self.scheduler = core.Scheduler(
            waiting_max=waiting,
            running_max=running,
            flows_max=waiting + running + len(trace.users) + 1,
            nodes_max=settings.nodes,
            decisions_max=DECISIONS_MAX,
            order=core.FIFO if policy == "fifo" else core.FAIR,
            overflow=core.PUSH_OUT,  # the router's default
            routing=core.LEAST_LOADED,
            no_node_wait_ns=core.NEVER,
            seed=settings.seed,
        )
        weighted = policy in ("wfq", "token_wfq")
        self.weight = [settings.weights.get(name, 1) if weighted else 1 for name in trace.users]
        self.by_tokens = policy == "token_wfq"
        self.heap: list[tuple[int, int, int, int, int]] = []  # time, order, kind, request or node, attempt or version
        self.order = 0
        self.events_max = EVENTS_MAX + 100 * count
        self.request: dict[int, int] = {}  # by handle
        self.handle = array("q", bytes(8 * count))
        self.attempt = array("i", bytes(4 * count))
        self.at = array("i", bytes(4 * count))  # the node of its last dispatch
        self.charge = array("q", bytes(8 * count))
        self.outcome = bytearray(count)
        self.start_ns = array("q", [-1]) * count
        self.end_ns = array("q", bytes(8 * count))
        self.service = array("q", bytes(8 * count))
        self.done = self.requeued = self.output_tokens = 0
        self.lengths = TokenPrices(dict.fromkeys(PRICES, 1))  # of answers, as the router expects them
        self.dispatched_in_load = [0] * len(trace.users)
        self.load_end_ns = trace.arrival_ns[-1]
        self.ttft_ns = round(settings.ttft_ms * 1e6)
        self.token_ns = settings.token_ms * 1e6
        self.fixed_ns = round(settings.fixed_service_s * 1e9)
        self.sloped = settings.batch_slope > 0 and not self.fixed_ns
        self.timeout_ns = round(settings.timeout_s * 1e9)
        self.gap = GapMeter(trace, self.weight)
        self._add_nodes()

    def _add_nodes(self) -> None:
        self.pool = self.scheduler.add_pool(0)
        self.nodes: list[_Node] = []
        self.node_at: dict[int, int] = {}
        for index in range(self.settings.nodes):
            handle = self.scheduler.add_node(0, self.settings.slots)
            self.scheduler.set_node_pools(0, handle, [self.pool])
            self.scheduler.set_node_state(0, handle, core.UP)
            node = _Node(handle, random.Random(f"node {self.settings.seed} {index}"))
            self.nodes.append(node)
            self.node_at[handle] = index
            self._will_fail(0, node, index)

    def _will_fail(self, now: int, node: _Node, index: int) -> None:
        if self.settings.mtbf_s:
            at_ns = now + round(node.draw.expovariate(1 / self.settings.mtbf_s) * 1e9)
            if at_ns <= TIME_MAX_NS:
                self._push(at_ns, NODE_DOWN, index, 0)

    def _push(self, at_ns: int, kind: int, which: int, version: int) -> None:
        self.order += 1
        if at_ns > TIME_MAX_NS:
            raise ConfigError(f"--node: a request would end after {at_ns / 1e9:.3g} s: choose nodes that are faster")
        if self.order > self.events_max:
            left = len(self.trace) - self.done
            raise ConfigError(
                f"--node: mtbf-s={self.settings.mtbf_s:g}: after {self.requeued} returns to the queue {left} of "
                f"{len(self.trace)} requests have not ended: choose a larger mtbf-s, or nodes that are faster"
            )
        heappush(self.heap, (at_ns, self.order, kind, which, version))

    def run(self, progress: Callable[[int], None] | None = None) -> Result:
        """Until every request has ended. ``progress`` is told now and then how many have."""
        arrival, count, heap = self.trace.arrival_ns, len(self.trace), self.heap
        drain, submit, timeout_ns = self.scheduler.drain, self._submit, self.timeout_ns
        next_deadline = self.scheduler.next_deadline_ns
        handlers = (self._end, self._join, self._node_token, self._node_down, self._node_up)
        never, following, report_at = core.NEVER, 0, PROGRESS_EVERY
        while self.done < count:
            now = heap[0][0] if heap else never
            arrives = following < count and arrival[following] < now
            if arrives:
                now = arrival[following]
            if timeout_ns and next_deadline() < now:
                now = next_deadline()
            elif arrives:
                submit(now, following)
                following += 1
            else:
                _, _, kind, which, version = heappop(heap)
                handlers[kind](now, which, version)
            decisions = drain(now)
            while decisions:
                self._decided(now, decisions)
                decisions = drain(now) if len(decisions) == DECISIONS_MAX else []
            if self.done >= report_at and progress is not None:
                progress(self.done)
                report_at = self.done + PROGRESS_EVERY
        return self._result()

    def _result(self) -> Result:
        self.scheduler.check()
        return Result(
            self.policy,
            self.settings,
            self.outcome,
            self.start_ns,
            self.end_ns,
            self.service,
            self.scheduler.counters(),
            self.requeued,
            self.output_tokens,
            self.dispatched_in_load,
            self.gap,
            self.settings.nodes * self.settings.slots,
        )

    # What happens to a request -------------------------------------------------------------------
    def _submit(self, now: int, index: int) -> None:
        trace = self.trace
        user = trace.user[index]
        cost = 1
        if self.by_tokens:
            output = round(self.lengths.expected_output(user))
            limit = trace.max_tokens[index]
            if limit and limit < output:
                output = limit
            cost = self.settings.price_input * trace.input_tokens[index] + self.settings.price_output * output
        self.charge[index] = cost
        deadline = now + self.timeout_ns if self.timeout_ns else core.NEVER
        handle = self.scheduler.submit(now, self.pool, user, self.weight[user], cost, 1, 0, deadline, 0, 0)
        if handle < 0:
            self._over(now, index, REFUSED)
            return
        self.handle[index] = handle
        self.request[handle] = index
        self.gap.waits(user)

    def _decided(self, now: int, decisions: list[tuple[int, int, int]]) -> None:
        for kind, handle, node in decisions:
            index = self.request[handle]
            if kind == core.DISPATCHED:
                self._start(now, index, self.node_at[node])
            else:
                self.gap.leaves(self.trace.user[index])
                self._over(now, index, ENDED_BY_CORE[kind])

    def _over(self, now: int, index: int, outcome: int) -> None:
        self.outcome[index] = outcome
        self.end_ns[index] = now
        self.done += 1
        handle = self.handle[index]
        if handle:
            del self.request[handle]

    def _start(self, now: int, index: int, node: int) -> None:
        self.start_ns[index] = now
        self.at[index] = node
        trace = self.trace
        user, output = trace.user[index], trace.output_tokens[index]
        tokens = self._priced(index, output)
        actual = tokens if self.by_tokens else 1
        self.service[index] = tokens
        if now <= self.load_end_ns:
            self.dispatched_in_load[user] += tokens
        self.gap.starts(user, actual, self.charge[index])
        attempt = self.attempt[index] = self.attempt[index] + 1
        if self.sloped or self.settings.mtbf_s:
            self.nodes[node].leases[index] = attempt
        if self.fixed_ns:
            self._push(now + self.fixed_ns, END, index, attempt)
        elif not self.sloped or not output:
            self._push(now + self.ttft_ns + round(self.token_ns * output), END, index, attempt)
        else:
            self._push(now + self.ttft_ns, JOIN, index, attempt)

    def _priced(self, index: int, output: int) -> int:
        return self.settings.price_input * self.trace.input_tokens[index] + self.settings.price_output * output

    def _end(self, now: int, index: int, attempt: int) -> None:
        if self.attempt[index] != attempt:  # its node failed meanwhile
            return
        if self.settings.mtbf_s or self.sloped:
            del self.nodes[self.at[index]].leases[index]
        self._finish(now, index, core.COMPLETED, COMPLETED, self.trace.output_tokens[index])

    def _finish(self, now: int, index: int, core_outcome: int, outcome: int, output: int) -> None:
        """It ends with ``output`` tokens delivered, which is what its user is charged."""
        user = self.trace.user[index]
        tokens = self._priced(index, output)
        cost = tokens if self.by_tokens else 1
        if not self.scheduler.finish(now, self.handle[index], core_outcome, cost):
            raise AssertionError(f"the core does not know request {index} any more")
        if tokens != self.service[index]:
            if self.start_ns[index] <= self.load_end_ns:
                self.dispatched_in_load[user] += tokens - self.service[index]
            self.gap.restart(user)
            self.service[index] = tokens
        self.output_tokens += output
        if self.by_tokens:
            self.lengths.learn(user, output)
        self.attempt[index] = -1
        self._over(now, index, outcome)

    # Nodes ---------------------------------------------------------------------------------------
    def _token_span_ns(self, node: _Node) -> float:
        return self.token_ns * (1 + self.settings.batch_slope * max(0, len(node.joined) - 1))

    def _advance(self, now: int, node: _Node) -> None:
        if node.joined and self.token_ns:
            node.tokens += (now - node.at_ns) / self._token_span_ns(node)
        node.at_ns = now

    def _expect(self, now: int, index: int) -> None:
        """Set the time of the node's next end; the one that was set before is void."""
        node = self.nodes[index]
        node.version += 1
        while node.ends and node.leases.get(node.ends[0][1]) != node.ends[0][2]:
            heappop(node.ends)
        if node.ends:
            left = max(0.0, node.ends[0][0] - node.tokens)
            self._push(now + round(left * self._token_span_ns(node)), NODE_TOKEN, index, node.version)

    def _join(self, now: int, index: int, attempt: int) -> None:
        """Its prompt is read: it produces tokens with the others of its node from here on."""
        at = self.at[index]
        node = self.nodes[at]
        if node.leases.get(index) != attempt or self.attempt[index] != attempt:
            return
        self._advance(now, node)
        node.joined[index] = node.tokens
        heappush(node.ends, (node.tokens + self.trace.output_tokens[index], index, attempt))
        self._expect(now, at)

    def _node_token(self, now: int, at: int, version: int) -> None:
        """The stream that was expected to end ends."""
        node = self.nodes[at]
        if node.version != version:
            return
        self._advance(now, node)
        node.tokens, index, _ = heappop(node.ends)
        del node.joined[index], node.leases[index]
        self._expect(now, at)
        self._finish(now, index, core.COMPLETED, COMPLETED, self.trace.output_tokens[index])

    def _node_down(self, now: int, at: int, _version: int) -> None:
        """What has delivered nothing goes back into its queue; the rest has failed and is charged what came."""
        node = self.nodes[at]
        self.scheduler.set_node_state(now, node.handle, core.DOWN)
        self._advance(now, node)
        for index in list(node.leases):
            delivered = min(self._delivered(now, node, index), self.trace.output_tokens[index])
            if delivered > 0:
                self._finish(now, index, core.FAILED, FAILED, delivered)
                continue
            if not self.scheduler.requeue(now, self.handle[index]):
                raise AssertionError(f"the core does not know request {index} any more")
            self._taken_back(index)
        node.leases.clear()
        node.joined.clear()
        node.ends.clear()
        node.version += 1
        self._push(now + round(node.draw.expovariate(1 / self.settings.mttr_s) * 1e9), NODE_UP, at, 0)

    def _taken_back(self, index: int) -> None:
        user = self.trace.user[index]
        self.requeued += 1
        if self.start_ns[index] <= self.load_end_ns:
            self.dispatched_in_load[user] -= self.service[index]
        self.service[index] = 0
        self.start_ns[index] = -1
        self.attempt[index] += 1
        self.gap.waits(user)
        self.gap.restart(user)

    def _delivered(self, now: int, node: _Node, index: int) -> int:
        """Output tokens of a running request so far."""
        if self.sloped:
            return int(node.tokens - node.joined[index]) if index in node.joined else 0
        span = now - self.start_ns[index] - self.ttft_ns
        output = self.trace.output_tokens[index]
        if self.fixed_ns:
            return span * output // max(1, self.fixed_ns - self.ttft_ns)
        return int(span / self.token_ns) if self.token_ns else output

    def _node_up(self, now: int, at: int, _version: int) -> None:
        node = self.nodes[at]
        node.at_ns = now
        self.scheduler.set_node_state(now, node.handle, core.UP)
        self._will_fail(now, node, at)


def simulate(trace: Trace, settings: Settings, policy: str, progress: Callable[[int], None] | None = None) -> Result:
    """Run ``policy`` over the requests of ``trace``."""
    return Simulation(trace, settings, policy).run(progress)
