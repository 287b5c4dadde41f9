"""One inference request from the queue to its end, whoever carries its bytes.

Promise: a call ends exactly once, with one outcome and one answer; its place in the queue or its lease goes back in
that moment, and nothing is told to its carrier after it. A client that leaves takes its work along, in every state.

    state       who is in it                                       it holds              it is left by
    QUEUED      not dispatched, or its node was out of reach       a place in the queue  dispatch, expiry, leaving
    CONNECTING  dispatched                                         a lease, an exchange  connected, lost, time, leaving
    SENT        its node has the request, its client has nothing   a lease, an exchange  first byte, lost, time, leaving
    STREAMING   the client has been told the head                  a lease, an exchange  end, lost, time, leaving
    DONE        ended                                              nothing               -

Theory. The commit point is the first byte that goes to the client, so a node's head is held until the first byte of
its body or its end: up to there every failure still gets an honest status. A node that could not be connected has
seen nothing, so the call goes back to its place in the queue, twice at most; all other losses end it. After the
commit point a stream ends with one error event and without ``[DONE]``, a plain answer is cut, never made to look whole.

Times: total bounds everything; a stream's first byte and the pauses between its bytes are bounded too, a plain
answer's are not, because engines send it when it is complete. A pause that the client's own reading caused is not the
node's. One timer per call (see driver) looks at the times it finds; bytes only leave theirs behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

from fairlead import headers, refusals
from fairlead.config import TimeoutsConfig
from fairlead.core.scheduler import CANCELLED, COMPLETED, FAILED, NO_NODE, PUSHED_OUT
from fairlead.driver import Driver, Ticket
from fairlead.errors import ApiError
from fairlead.headers import HeaderList, NodeHead
from fairlead.metrics import Meter
from fairlead.policy import Bill
from fairlead.upstream import Exchange, Link, Lost, Pool, request_head

REQUEUES_MAX: Final = 2


class State(IntEnum):
    QUEUED = 0
    CONNECTING = 1
    SENT = 2
    STREAMING = 3
    DONE = 4


class Carrier(Protocol):
    """Who brings a call's answer to its client. Nothing here may raise or call back; after the end nothing comes.

    fail (before head), end and cut (after head) are the end. cut: the answer is broken off, after these last bytes.
    """

    def head(self, status: int, headers: HeaderList) -> None: ...
    def body(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: ApiError) -> None: ...
    def cut(self, event: bytes | None) -> None: ...


class Node(Protocol):
    """What a call needs of a node."""

    @property
    def name(self) -> str: ...
    @property
    def pool(self) -> Pool: ...


class Nodes(Protocol):
    """What calls need of the registry."""

    def node(self, handle: int) -> Node: ...
    def pool_of(self, model: str) -> int | None: ...
    def report_connect_failure(self, node: Any) -> None: ...  # what node() gave


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all calls share."""

    driver: Driver
    nodes: Nodes
    meter: Meter
    timeouts: TimeoutsConfig


@dataclass(slots=True)
class Outgoing:
    """The request as its node will get it. body is let go when the node has answered."""

    request_id: str
    path: str
    target: str
    headers: HeaderList
    body: bytes
    model: str
    stream: bool


class Call(Ticket, Exchange):
    __slots__ = (  # noqa: RUF023  in groups by who sets them
        # set once
        "bill",
        "carrier",
        "cost",
        "deadline_ns",
        "entered_ns",
        "outgoing",
        "running_max",
        "size_bytes",
        "surroundings",
        "total_deadline_ns",
        "user",
        "waiting_max",
        "weight",
        "width",
        # the queue's side
        "estimate_s",
        "handle",
        "never_wait",
        "pool",
        "position",
        "queued_ns",
        "requeues",
        "waited",
        "waited_ns",
        # the node's side
        "connected_ns",
        "dispatched_ns",
        "last_byte_ns",
        "link",
        "node",
        "node_head",
        "paused",
        "state",
        "status",
        "stream",
        "whole_event",
    )

    def __init__(self, surroundings: Surroundings, carrier: Carrier, outgoing: Outgoing, entered_ns: int) -> None:
        """The fields of a Ticket are the gateway's to set; handle and pool may change later."""
        self.surroundings = surroundings
        self.carrier = carrier
        self.outgoing = outgoing
        self.bill: Bill | None = None  # under token_wfq only
        self.entered_ns = self.queued_ns = entered_ns
        self.total_deadline_ns = 0
        self.never_wait = False
        self.state = State.QUEUED
        self.handle = 0
        self.position = 0
        self.estimate_s: int | None = None
        self.requeues = 0
        self.waited = False
        self.waited_ns = 0
        self.link: Link | None = None
        self.node: Node | None = None
        self.node_head: NodeHead | None = None
        self.status = 0
        self.stream = outgoing.stream
        self.paused = False
        self.whole_event = True
        self.dispatched_ns = self.connected_ns = self.last_byte_ns = 0

    # The client's side ---------------------------------------------------------------------------

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: leave the queue, or stop the node, now."""
        if self.state is not State.DONE:
            self.abort()
            self._end(CANCELLED)

    def pause(self) -> None:
        """The client reads slower than the node writes."""
        self.paused = True
        super().pause()

    def resume(self) -> None:
        self.paused = False
        self.last_byte_ns = self.surroundings.driver.now_ns()
        super().resume()

    def give_up(self, error: ApiError) -> None:
        """The router ends it, whatever it is doing: it is shutting down."""
        if self.state is State.QUEUED:
            self.withdraw("drained")
            self.carrier.fail(error)
        elif self.state is not State.DONE:
            self.abort()
            self._fail(error)

    def withdraw(self, why: str) -> None:
        """The router takes it out of the queue; whoever calls this tells the client. why: see Meter.withdrawn."""
        self.surroundings.meter.withdrawn[why] += 1
        self._end(CANCELLED)

    # The queue's side ----------------------------------------------------------------------------

    def on_dispatch(self, node: int, now_ns: int) -> None:
        surroundings, outgoing = self.surroundings, self.outgoing
        self.state = State.CONNECTING
        self.dispatched_ns = now_ns
        self.waited_ns += now_ns - self.queued_ns
        self.node = surroundings.nodes.node(node)
        if not self.requeues:
            surroundings.meter.dispatch(now_ns, self.waited_ns)
        surroundings.driver.set_timer(self, self._due_ns())
        pool = self.node.pool
        body = outgoing.body if self.bill is None else self.bill.request_body(outgoing.body)
        pool.send(request_head(pool.endpoint, "POST", outgoing.target, outgoing.headers, len(body)), body, self)

    def on_expire(self, kind: int, now_ns: int) -> None:
        self.state = State.DONE
        waited_ms = (now_ns - self.entered_ns) // 1_000_000
        if kind == NO_NODE:
            error = self.no_node(f"no node that serves the model has been usable for {waited_ms} ms: try again later")
        elif kind == PUSHED_OUT:
            self.surroundings.meter.refuse(now_ns)
            retry_ms = self.surroundings.driver.retry_after_ms(self.pool, max(self.position, 1))
            error = refusals.pushed_out(waited_ms, retry_ms, self.position, self.estimate_s)
        else:
            self.surroundings.meter.expire(now_ns)
            limit_ms = (self.deadline_ns - self.entered_ns) // 1_000_000
            error = refusals.queue_timeout(waited_ms, limit_ms, self.position, self.estimate_s)
        self.carrier.fail(error)

    def on_broken(self) -> None:
        self.abort()
        if self.state is not State.DONE:
            was, self.state = self.state, State.DONE
            self._tell(was, ApiError("internal_error", "the router failed on this request; its log says why"))

    def no_node(self, message: str) -> ApiError:
        retry_ms = self.surroundings.driver.retry_after_ms(self.pool, 1)
        return ApiError("no_healthy_node", message, headers=headers.retry_headers(retry_ms))

    # Time ----------------------------------------------------------------------------------------

    def _due_ns(self) -> int:
        """When the next of its times is over, as far as is known now."""
        if not self.stream:
            return self.total_deadline_ns
        timeouts = self.surroundings.timeouts
        if self.state is not State.STREAMING:
            return min(self.total_deadline_ns, self.dispatched_ns + timeouts.first_byte_ns)
        last_ns = self.surroundings.driver.now_ns() if self.paused else self.last_byte_ns
        return min(self.total_deadline_ns, last_ns + timeouts.idle_ns)

    def on_timer(self, now_ns: int) -> int:
        due_ns = self._due_ns()
        if due_ns > now_ns:
            return due_ns
        self.abort()
        if now_ns >= self.total_deadline_ns:
            spent_ms = (now_ns - self.entered_ns) // 1_000_000
            error = ApiError("total_timeout", f"the request took longer than it may: {spent_ms} ms")
            self._fail(error, charged=self.state >= State.SENT)  # its node has worked for it
        elif self.state is State.STREAMING:
            idle_ms = (now_ns - self.last_byte_ns) // 1_000_000
            self._fail(ApiError("idle_timeout", f"the node's answer stood still for {idle_ms} ms"))
        else:
            wait_ms = (now_ns - self.dispatched_ns) // 1_000_000
            self._fail(ApiError("first_byte_timeout", f"the node sent no byte of its answer in {wait_ms} ms"))
        return 0

    # The node's side -----------------------------------------------------------------------------

    def on_connected(self, reused: bool) -> None:
        self.state = State.SENT
        self.connected_ns = self.surroundings.driver.now_ns()

    def on_head(self, status: int, raw: list[tuple[bytes, bytes]]) -> None:
        head = headers.for_client(raw)
        if 300 <= status < 400:
            self._refuse_answer(f"the node answered with status {status}: redirects are not followed")
        elif head.encoded:
            self._refuse_answer("the node answered with a content coding that nobody asked for")
        else:
            self.status, self.node_head = status, head
            self.outgoing.body = b""
            if self.bill is not None:
                has_length = any(name == "Content-Length" for name, _ in head.headers)
                self.bill.on_head(status, head.event_stream, has_length)

    def _refuse_answer(self, message: str) -> None:
        self.abort()
        self._fail(ApiError("upstream_error", message))

    def on_body(self, data: bytes) -> None:
        self.last_byte_ns = self.surroundings.driver.now_ns()
        if self.state is not State.STREAMING:
            self._commit()
        self._relay(data if self.bill is None else self.bill.feed(data))

    def _relay(self, data: bytes) -> None:
        if data:
            self.whole_event = data.endswith((b"\n\n", b"\r\n\r\n"))
            self.carrier.body(data)

    def on_end(self) -> None:
        if self.state is not State.STREAMING:
            self.last_byte_ns = self.surroundings.driver.now_ns()
            self._commit()
        if self.bill is not None:
            self._relay(self.bill.rest())
        self._end(COMPLETED)
        self.carrier.end()

    def on_lost(self, reason: Lost) -> None:
        """The state may be SENT for a failed connect too: a kept connection was dead and no fresh one came about."""
        if reason.phase == "connect":
            self._out_of_reach(reason)
        else:
            self._fail(ApiError("upstream_error", f"the node was lost before its answer was whole: {reason.kind}"))

    def _out_of_reach(self, reason: Lost) -> None:
        surroundings = self.surroundings
        assert self.node is not None
        if reason.kind != "internal":
            surroundings.nodes.report_connect_failure(self.node)
        if self.requeues == REQUEUES_MAX:
            attempts = self.requeues + 1
            self._fail(ApiError("upstream_error", f"no node could be connected in {attempts} attempts: {reason.kind}"))
            return
        self.requeues += 1
        self.state = State.QUEUED
        self.node = None
        self.queued_ns = surroundings.driver.now_ns()
        surroundings.driver.requeue(self, surroundings.nodes.pool_of(self.outgoing.model))
        if self.state is State.QUEUED and self.never_wait:
            self.withdraw("refused")
            self.carrier.fail(self.no_node("the node was out of reach, no other is free, and the request may not wait"))

    # Telling the client --------------------------------------------------------------------------

    def _commit(self) -> None:
        """From here on the client has the head: the status is final."""
        surroundings, head = self.surroundings, self.node_head
        assert head is not None
        self.state = State.STREAMING
        first_byte_ns = self.last_byte_ns - self.entered_ns
        surroundings.meter.first_byte.observe(first_byte_ns)
        self.stream = self.stream or head.event_stream
        if self.stream:
            surroundings.driver.set_timer(self, self._due_ns())
        ours = headers.queue_headers(self.waited_ns if self.waited else None, self.position, self.estimate_s)
        ours["Server-Timing"] = headers.server_timing(
            self.waited_ns, self.connected_ns - self.dispatched_ns, self.last_byte_ns - self.connected_ns
        )
        if self.status in (429, 503):
            ours |= headers.retry_headers(surroundings.driver.retry_after_ms(self.pool, 1))
        self.carrier.head(self.status, [*head.headers, *ours.items()])

    def _fail(self, error: ApiError, charged: bool = False) -> None:
        """End with an error. What failed before the client had a byte is not charged, unless it is to be."""
        was = self.state
        self._end(FAILED, charged or was is State.STREAMING)
        self._tell(was, error)

    def _tell(self, was: State, error: ApiError) -> None:
        if was is State.STREAMING:
            self.carrier.cut(self._last_event(error))
        else:
            self.carrier.fail(error)

    def _last_event(self, error: ApiError) -> bytes | None:
        """An error for those who read events. Without the blank line, half an event would swallow it."""
        if self.node_head is None or not self.node_head.event_stream:
            return None
        return (b"" if self.whole_event else b"\n\n") + error.event(self.outgoing.path)

    def _end(self, outcome: int, charged: bool = True) -> None:
        """Leave the queue or give the lease back: the one place where a call that did not expire ends."""
        was, self.state = self.state, State.DONE
        driver, now_ns = self.surroundings.driver, self.surroundings.driver.now_ns()
        if was is State.QUEUED:
            driver.cancel(self)
            return
        self.surroundings.meter.finish(now_ns, now_ns - self.dispatched_ns, now_ns - self.entered_ns)
        driver.finish(self, outcome, self._price(outcome, was) if charged else 0)

    def _price(self, outcome: int, was: State) -> int:
        """What it is charged: sequences, or the tokens it was; a node that never saw it has made none."""
        bill = self.bill
        if bill is None:
            return self.cost
        if was is State.CONNECTING:
            return 0
        price = bill.settle(outcome == COMPLETED)
        self.surroundings.meter.priced[bill.by] += 1
        return price
