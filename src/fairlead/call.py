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

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from fairlead import refusals
from fairlead.clock import MILLISECOND_NS
from fairlead.config import TimeoutsConfig
from fairlead.core.scheduler import CANCELLED, COMPLETED, EXPIRED, FAILED, NO_NODE, PUSHED_OUT
from fairlead.driver import Driver
from fairlead.errors import ApiError, internal_error
from fairlead.headers import NodeHead, for_client, lines_of, queue_lines, retry_headers
from fairlead.metrics import Meter
from fairlead.policy import Reading
from fairlead.ticket import Ticket
from fairlead.upstream import Link, Lost, Pool
from fairlead.usage import Habits
from fairlead.wire.answer import server_timing

REQUEUES_MAX: Final = 2
ENDED_BY_CORE: Final = {EXPIRED: "expired", NO_NODE: "no_node", PUSHED_OUT: "pushed_out"}
QUEUED, CONNECTING, SENT, STREAMING, DONE = range(5)


class Carrier(Protocol):
    """Who brings a call's answer to its client. Nothing here may raise or call back; after the end nothing comes.

    What head and body bring may be kept until flush or the end. fail (before head), end and cut (after head) are the
    end. lines: of the head; sized: they say the body's length. cut: the answer is broken off, after these last bytes.
    """

    def head(self, status: int, lines: bytes, sized: bool) -> None: ...
    def body(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: ApiError) -> None: ...
    def cut(self, event: bytes | None) -> None: ...


class Node(Protocol):
    """What a call needs of a node."""

    @property
    def name(self) -> str: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def habits(self) -> Habits: ...


class Nodes(Protocol):
    """What calls need of the registry."""

    @property
    def by_handle(self) -> Mapping[int, Node]: ...
    def report_connect_failure(self, node: Any) -> None: ...  # of by_handle


class Surroundings:
    """What all calls share."""

    driver: Driver
    nodes: Nodes
    meter: Meter
    place_of: Callable[[Call], tuple[int, int] | None]
    first_byte_ns: int
    idle_ns: int

    def __init__(self, driver: Driver, nodes: Nodes, meter: Meter, timeouts: TimeoutsConfig) -> None:
        self.driver = driver
        self.nodes = nodes
        self.meter = meter
        self.place_of = lambda call: None  # the gateway's to set
        self.first_byte_ns = timeouts.first_byte_ns
        self.idle_ns = timeouts.idle_ns


class Outgoing:
    """The request as its node will get it. body is let go when the node has answered."""

    request_id: str
    path: str
    target: str
    headers: bytes
    body: bytes
    model: str
    stream: bool

    def __init__(
        self, request_id: str, path: str, target: str, headers: bytes, body: bytes, model: str, stream: bool
    ) -> None:
        self.request_id = request_id
        self.path = path
        self.target = target
        self.headers = headers
        self.body = body
        self.model = model
        self.stream = stream


class Call(Ticket):
    """Also an upstream_exchange.Exchange. Compiled: its attributes are in call.pxd."""

    def __init__(self, surroundings: Surroundings, carrier: Carrier, outgoing: Outgoing, entered_ns: int) -> None:
        """The fields of a Ticket are the gateway's to set; handle, pool and place may change later."""
        self.surroundings = surroundings
        self.carrier = carrier
        self.outgoing = outgoing
        self.bill: Reading | None = None  # where tokens are read: under token_wfq, or for the request log
        self.entered_ns = self.queued_ns = entered_ns
        self.user_name = ""
        self.total_deadline_ns = 0
        self.never_wait = self.waited = self.paused = False
        self.state = QUEUED
        self.handle = self.position = self.requeues = self.waited_ns = 0
        self.estimate_s: int | None = None
        self.link: Link | None = None
        self.node: Node | None = None
        self.node_head: NodeHead | None = None
        self.status = 0
        self.stream = outgoing.stream
        self.whole_event = True
        self.error: ApiError | None = None
        self.dispatched_ns = self.connected_ns = self.first_byte_ns = self.last_byte_ns = 0
        self.flow = self.tally = None

    @property
    def waits(self) -> bool:
        """It is in the queue, or on its way back to it."""
        return self.state == QUEUED

    # The client's side ---------------------------------------------------------------------------

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: leave the queue, or stop the node, now."""
        if self.state != DONE:
            self.abort()
            self._end(CANCELLED, "cancelled")

    def pause(self) -> None:
        """The client reads slower than the node writes."""
        self.paused = True
        if self.link is not None:
            self.link.pause()

    def resume(self) -> None:
        self.paused = False
        self.last_byte_ns = self.surroundings.driver.now_ns()
        if self.link is not None:
            self.link.resume()

    def abort(self) -> None:
        """Cut the connection to the node, or the dialling, now. No callback of it follows."""
        link, self.link = self.link, None
        if link is not None:
            link.abort()

    def give_up(self, error: ApiError) -> None:
        """The router ends it, whatever it is doing: it is shutting down."""
        if self.state == QUEUED:
            self.withdraw("drained", error)
            self.carrier.fail(error)
        elif self.state != DONE:
            self.abort()
            self._fail(error)

    def withdraw(self, why: str, error: ApiError) -> None:
        """The router takes it out of the queue; whoever calls this tells the client. why: see Meter.withdrawn."""
        self.surroundings.meter.withdrawn[why] += 1
        self.error = error
        self._end(CANCELLED, why)

    # The queue's side ----------------------------------------------------------------------------

    def on_dispatch(self, node: int, now_ns: int) -> None:
        surroundings, outgoing = self.surroundings, self.outgoing
        self.state = CONNECTING
        self.dispatched_ns = now_ns
        self.waited_ns += now_ns - self.queued_ns
        self.node = surroundings.nodes.by_handle[node]
        surroundings.meter.dispatched(self, now_ns)
        surroundings.driver.set_timer(self, self._due_ns())
        pool = self.node.pool
        body = outgoing.body if self.bill is None else self.bill.request_body(outgoing.body, self.node.habits)
        pool.send(pool.endpoint.request_head(outgoing.target, outgoing.headers, len(body)), body, self)

    def on_expire(self, kind: int, now_ns: int) -> None:
        self.state = DONE
        waited_ms = (now_ns - self.entered_ns) // MILLISECOND_NS
        if kind == NO_NODE:
            error = self.no_node(f"no node that serves the model has been usable for {waited_ms} ms: try again later")
        elif kind == PUSHED_OUT:
            retry_ms = self.surroundings.driver.retry_after_ms(self.pool, max(self.position, 1))
            error = refusals.pushed_out(waited_ms, retry_ms, self.position, self.estimate_s)
        else:
            limit_ms = (self.deadline_ns - self.entered_ns) // MILLISECOND_NS
            error = refusals.queue_timeout(waited_ms, limit_ms, self.position, self.estimate_s)
        self.error = error
        self.surroundings.meter.ended(self, ENDED_BY_CORE[kind], 0, now_ns)
        self.carrier.fail(error)

    def on_broken(self) -> None:
        self.abort()
        if self.state != DONE:
            was, self.state = self.state, DONE
            self.error = internal_error()
            self.surroundings.meter.ended(self, "failed", 0, self.surroundings.driver.now_ns())
            self._tell(was, self.error)

    def no_node(self, message: str) -> ApiError:
        retry_ms = self.surroundings.driver.retry_after_ms(self.pool, 1)
        return ApiError("no_healthy_node", message, headers=retry_headers(retry_ms))

    # Time ----------------------------------------------------------------------------------------

    def _due_ns(self) -> int:
        """When the next of its times is over, as far as is known now."""
        if not self.stream:
            return self.total_deadline_ns
        surroundings = self.surroundings
        if self.state != STREAMING:
            return min(self.total_deadline_ns, self.dispatched_ns + surroundings.first_byte_ns)
        last_ns = surroundings.driver.now_ns() if self.paused else self.last_byte_ns
        return min(self.total_deadline_ns, last_ns + surroundings.idle_ns)

    def on_timer(self, now_ns: int) -> int:
        due_ns = self._due_ns()
        if due_ns > now_ns:
            return due_ns
        self.abort()
        surroundings = self.surroundings
        if now_ns >= self.total_deadline_ns:
            limit_ns = self.total_deadline_ns - self.entered_ns
            error = refusals.total_timeout((now_ns - self.entered_ns) // MILLISECOND_NS, limit_ns // MILLISECOND_NS)
            self._fail(error, charged=self.state >= SENT)  # its node has worked for it
        elif self.state == STREAMING:
            still_ms = (now_ns - self.last_byte_ns) // MILLISECOND_NS
            self._fail(refusals.idle_timeout(still_ms, surroundings.idle_ns // MILLISECOND_NS))
        else:
            wait_ms = (now_ns - self.dispatched_ns) // MILLISECOND_NS
            self._fail(refusals.first_byte_timeout(wait_ms, surroundings.first_byte_ns // MILLISECOND_NS))
        return 0

    # The node's side -----------------------------------------------------------------------------

    def on_connected(self, reused: bool) -> None:
        self.state = SENT
        self.connected_ns = self.surroundings.driver.now_ns()

    def on_head(self, status: int, raw: list[tuple[bytes, bytes]]) -> None:
        head = for_client(raw)
        if 300 <= status < 400:
            self._refuse_answer(f"the node answered with status {status}: redirects are not followed")
        elif head.encoded:
            self._refuse_answer("the node answered with a content coding that nobody asked for")
        else:
            self.status, self.node_head = status, head
            self.outgoing.body = b""
            if self.bill is not None:
                self.bill.on_head(status, head.event_stream, head.sized)

    def _refuse_answer(self, message: str) -> None:
        self.abort()
        self._fail(ApiError("upstream_error", message))

    def on_body(self, data: bytes) -> None:
        self.last_byte_ns = self.surroundings.driver.now_ns()
        if self.state != STREAMING:
            self._commit()
        self._relay(data if self.bill is None else self.bill.feed(data))

    def _relay(self, data: bytes) -> None:
        if data:
            self.whole_event = data.endswith(b"\n\n") or data.endswith(b"\r\n\r\n")
            self.carrier.body(data)

    def on_read(self) -> None:
        if self.state == STREAMING:
            self.carrier.flush()

    def on_end(self) -> None:
        if self.state != STREAMING:
            self.last_byte_ns = self.surroundings.driver.now_ns()
            self._commit()
        if self.bill is not None:
            self._relay(self.bill.rest())
        self._end(COMPLETED, "completed")
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
        self.state = QUEUED
        self.node = None
        self.queued_ns = surroundings.driver.now_ns()
        surroundings.meter.requeued(self)
        where = surroundings.place_of(self)  # its model's nodes may be others than before
        if where is not None and where[0] != self.pool:
            surroundings.meter.moved(self, where[0], where[1], self.queued_ns)
        surroundings.driver.requeue(self, where)
        if self.state == QUEUED and self.never_wait:
            error = self.no_node("the node was out of reach, no other is free, and the request may not wait")
            self.withdraw("refused", error)
            self.carrier.fail(error)

    # Telling the client --------------------------------------------------------------------------

    def _commit(self) -> None:
        """From here on the client has the head: the status is final."""
        surroundings, head = self.surroundings, self.node_head
        assert head is not None
        self.state = STREAMING
        self.first_byte_ns = self.last_byte_ns
        surroundings.meter.first_byte.observe(self.first_byte_ns - self.entered_ns)
        self.stream = self.stream or head.event_stream
        if self.stream:
            surroundings.driver.set_timer(self, self._due_ns())
        lines = head.lines + queue_lines(self.waited_ns if self.waited else None, self.position, self.estimate_s)
        connect_ns, answer_ns = self.connected_ns - self.dispatched_ns, self.last_byte_ns - self.connected_ns
        lines += server_timing(self.waited_ns, connect_ns, answer_ns)
        if self.status in (429, 503):
            lines += lines_of(retry_headers(surroundings.driver.retry_after_ms(self.pool, 1)))
        self.carrier.head(self.status, lines, head.sized)

    def _fail(self, error: ApiError, charged: bool = False) -> None:
        """End with an error. What failed before the client had a byte is not charged, unless it is to be."""
        was, self.error = self.state, error
        self._end(FAILED, "failed", charged or was == STREAMING)
        self._tell(was, error)

    def _tell(self, was: int, error: ApiError) -> None:
        if was == STREAMING:
            self.carrier.cut(self._last_event(error))
        else:
            self.carrier.fail(error)

    def _last_event(self, error: ApiError) -> bytes | None:
        """An error for those who read events. Without the blank line, half an event would swallow it."""
        if self.node_head is None or not self.node_head.event_stream:
            return None
        return (b"" if self.whole_event else b"\n\n") + error.event(self.outgoing.path)

    def _end(self, outcome: int, word: str, charged: bool = True) -> None:
        """Leave the queue or give the lease back: the one place where a call that did not expire ends."""
        was, self.state = self.state, DONE
        driver, meter = self.surroundings.driver, self.surroundings.meter
        cost = self._price(outcome, was) if charged and was != QUEUED else 0
        meter.ended(self, word, cost, driver.now_ns())
        if was == QUEUED:
            driver.cancel(self)
        else:
            driver.finish(self, outcome, cost)

    def _price(self, outcome: int, was: int) -> int:
        """What it is charged: sequences, or the tokens it was; a node that never saw it has made none."""
        bill = self.bill
        if bill is None:
            return self.cost
        return bill.unsent() if was == CONNECTING else bill.settle(outcome == COMPLETED)
