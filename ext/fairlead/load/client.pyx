"""Requests by the ten thousand, from one thread, and what became of each.

Promise: a request is counted exactly once, as good or under one fault. Latency counts from the time at which the
request was due, however late it could be sent.

Theory. Closed loop: each connection asks again when its answer is there, so the far end sets the pace. Open loop:
arrivals come at exponentially distributed intervals whatever the far end does; one that finds no free connection
waits in a ring, and its time there is part of its latency. (A loop that waits for the answer before it asks again
leaves out just those requests that would have had to wait: coordinated omission.)

Each connection holds one request, whose nonce and user are overwritten in place, and reads through an Answer. Times
are CLOCK_MONOTONIC, which our node writes into its chunks. The timer of a connection is when to give up, or when to
connect again. A request that meets a connection which the far end has closed meanwhile is sent once more, as every
client with a pool of connections does. Nothing is allocated once it runs.
"""

from fairlead.load.answer cimport COMPLETE, answer_advance, answer_begin, answer_end, answer_room
from fairlead.load.digits cimport write_digits
from fairlead.load.histogram cimport histogram_record
from fairlead.load.judge cimport take_body, take_lines, verdict
from fairlead.load.sockets cimport (
    CHECK, EPOLLIN, EPOLLOUT, EVENTS_MAX, MSG_NOSIGNAL, epoll_wait, now_ns, recv, send, shut, tcp_connect, tcp_error,
    timer_arm, wait_ms, watch,
)
from fairlead.load.timers cimport timers_clear, timers_next_ns, timers_pop, timers_set
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport log
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef enum:
    CONNECTING_MAX = 256       # more at once overrun the backlog of the far end
    RETRY_NS = 20_000_000


cdef inline double exponential(Load *load) noexcept nogil:
    """A draw of mean 1, from xorshift64*."""
    load.random ^= load.random >> 12
    load.random ^= load.random << 25
    load.random ^= load.random >> 27
    return -log(<double> ((load.random * <uint64_t> 0x2545F4914F6CDD1D >> 11) + 1) / 9007199254740992.0)


# Connections -------------------------------------------------------------------------------------------


cdef void disconnect(Load *load, int32_t number, int64_t retry_ns) noexcept nogil:
    """Its connection is gone; the timer makes another one at that time."""
    cdef Connection *one = &load.all[number]
    if one.phase == CONNECTING:
        load.connecting -= 1
    shut(one.fd)
    one.fd = -1
    one.phase = APART
    one.served = False
    timers_set(&load.timers, number, retry_ns)


cdef void attempt(Load *load, int32_t number) noexcept nogil:
    """Begin to connect, or wait for its turn."""
    cdef Connection *one = &load.all[number]
    if load.connecting >= CONNECTING_MAX:
        timers_set(&load.timers, number, now_ns() + RETRY_NS // 20)
        return
    one.fd = tcp_connect(load.plan.address, load.plan.port)
    if one.fd < 0 or not watch(load.epoll, one.fd, EPOLLOUT, <uint32_t> number, True):
        shut(one.fd)
        one.fd = -1
        load.tally.faults[REFUSED] += 1
        timers_set(&load.timers, number, now_ns() + RETRY_NS)
        return
    one.phase = CONNECTING
    load.connecting += 1
    timers_set(&load.timers, number, now_ns() + load.plan.timeout_ns)


cdef void begin_untried(Load *load) noexcept nogil:
    while load.untried < load.plan.connections and load.connecting < CONNECTING_MAX:
        attempt(load, load.untried)
        load.untried += 1


cdef void connected(Load *load, int32_t number) noexcept nogil:
    cdef Connection *one = &load.all[number]
    if tcp_error(one.fd) != 0 or not watch(load.epoll, one.fd, EPOLLIN, <uint32_t> number, False):
        load.tally.faults[REFUSED] += 1
        disconnect(load, number, now_ns() + RETRY_NS)
        return
    load.connecting -= 1
    load.tally.connects += 1
    begin_untried(load)
    if one.again:
        ready(load, number)
    else:
        rest(load, number)


# Requests ----------------------------------------------------------------------------------------------


cdef void rest(Load *load, int32_t number) noexcept nogil:
    """The connection is free: give it what waits, or lay it by."""
    cdef Connection *one = &load.all[number]
    one.phase = IDLE
    timers_clear(&load.timers, number)
    if not load.stopping:
        if load.plan.interval_ns == 0:
            ask(load, number, now_ns())
            return
        if load.backlog_size > 0:
            load.backlog_size -= 1
            load.backlog_first = (load.backlog_first + 1) & (BACKLOG_MAX - 1)
            ask(load, number, load.backlog[(load.backlog_first - 1) & (BACKLOG_MAX - 1)])
            return
    one.next_idle = load.idle
    load.idle = number


cdef void ask(Load *load, int32_t number, int64_t due_ns) noexcept nogil:
    """Send the next request on a connection that is free."""
    cdef Connection *one = &load.all[number]
    CHECK(one.phase == IDLE)
    load.nonce = (load.nonce + 1) % NONCE_MODULUS
    write_digits(one.request + load.plan.nonce_at, NONCE_DIGITS, load.nonce)
    if load.plan.user_at >= 0:
        write_digits(one.request + load.plan.user_at, USER_DIGITS, load.count % load.plan.users)
    load.count += 1
    load.busy += 1
    one.chunks = 0
    one.due_ns = one.last_ns = due_ns
    one.marked = one.strange = one.disordered = one.done = False
    ready(load, number)


cdef void ready(Load *load, int32_t number) noexcept nogil:
    """The request is written: send it."""
    cdef Connection *one = &load.all[number]
    one.sent = 0
    one.phase = SENDING
    answer_begin(&one.answer)
    timers_set(&load.timers, number, now_ns() + load.plan.timeout_ns)
    send_more(load, number)


cdef void send_more(Load *load, int32_t number) noexcept nogil:
    cdef Connection *one = &load.all[number]
    cdef ssize_t count = send(
        one.fd, one.request + one.sent, <size_t> (load.plan.request_size - one.sent), MSG_NOSIGNAL
    )
    cdef bint was_short = one.sent > 0
    if count < 0:
        if errno != EAGAIN and errno != EINTR:
            # What the far end has said before it closed may still be there to read.
            one.phase = WAITING
            watch(load.epoll, one.fd, EPOLLIN, <uint32_t> number, False)
            return
        count = 0
    one.sent += count
    if one.sent == load.plan.request_size:
        one.phase = WAITING
        if was_short:
            watch(load.epoll, one.fd, EPOLLIN, <uint32_t> number, False)
    else:
        watch(load.epoll, one.fd, EPOLLIN | EPOLLOUT, <uint32_t> number, False)


cdef void over(Load *load, int32_t number, int fault) noexcept nogil:
    """The request has ended; fault -1: well."""
    cdef Connection *one = &load.all[number]
    cdef int64_t now = now_ns()
    cdef bint reusable = one.answer.state == COMPLETE and one.answer.keep_alive and one.phase == WAITING
    if fault == CUT_OFF and one.served and one.answer.status == 0 and one.answer.filled == 0:
        one.again = True
        load.tally.stale += 1
        disconnect(load, number, now)
        return
    one.again = False
    load.busy -= 1
    if one.chunks > 0:
        load.flowing -= 1
    if fault < 0:
        load.tally.good += 1
        load.tally.length = one.chunks if load.plan.stream else one.answer.body_bytes
        histogram_record(&load.tally.latency, now - one.due_ns)
    else:
        load.tally.faults[fault] += 1
    if reusable:
        one.served = True
        rest(load, number)
    elif fault < 0 or one.answer.state == COMPLETE:
        disconnect(load, number, now)
    else:
        disconnect(load, number, now + RETRY_NS)


cdef void hear(Load *load, int32_t number) noexcept nogil:
    """Something has come."""
    cdef Connection *one = &load.all[number]
    cdef size_t room
    cdef char *to = answer_room(&one.answer, &room)
    cdef ssize_t count = recv(one.fd, to, room, 0)
    if count < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if one.phase == IDLE:
        leave_idle(load, number)
        return
    if count <= 0:
        answer_end(&one.answer)
    else:
        load.tally.bytes += count
        answer_advance(&one.answer, <int32_t> count)
        if load.plan.stream and one.answer.status == 200:
            take_lines(load, one)
        else:
            take_body(load, one)
    if one.answer.state < COMPLETE:
        return
    if 0 < one.answer.status < STATUS_MAX:
        load.tally.statuses[one.answer.status] += 1
    over(load, number, verdict(load, one))


cdef void leave_idle(Load *load, int32_t number) noexcept nogil:
    """A connection that waited for work was closed, or says something that nobody asked for."""
    cdef int32_t *link = &load.idle
    while link[0] != number:
        link = &load.all[link[0]].next_idle
    link[0] = load.all[number].next_idle
    disconnect(load, number, now_ns())


# The loop ----------------------------------------------------------------------------------------------


cdef void arrive(Load *load, int64_t now) noexcept nogil:
    """Everything that is due by now, in order."""
    cdef int32_t number
    cdef int64_t due
    while load.next_ns <= now:
        due = <int64_t> load.next_ns
        load.next_ns += exponential(load) * load.plan.interval_ns
        load.tally.arrivals += 1
        number = load.idle
        if number >= 0:
            load.idle = load.all[number].next_idle
            histogram_record(&load.tally.lag, now - due)
            ask(load, number, due)
        elif load.backlog_size < BACKLOG_MAX:
            load.backlog[(load.backlog_first + load.backlog_size) & (BACKLOG_MAX - 1)] = due
            load.backlog_size += 1
        else:
            load.tally.missed += 1


cdef void expire(Load *load, int64_t now) noexcept nogil:
    cdef int32_t number = timers_pop(&load.timers, now)
    while number >= 0:
        if load.all[number].phase == APART:
            if load.all[number].again or not load.stopping:
                attempt(load, number)
        elif load.all[number].phase == CONNECTING:
            load.tally.faults[REFUSED] += 1
            disconnect(load, number, now + RETRY_NS)
        else:
            over(load, number, TIMED_OUT)
        number = timers_pop(&load.timers, now)


cdef void turn(Load *load, int64_t until) noexcept nogil:
    cdef int64_t now = now_ns()
    cdef int count
    cdef int i
    cdef int32_t number
    begin_untried(load)
    while now < until:
        if load.plan.interval_ns > 0 and not load.stopping:
            arrive(load, now)
            if load.armed_ns != load.next_ns:
                load.armed_ns = load.next_ns
                timer_arm(load.timer, <int64_t> load.next_ns + 1)
        expire(load, now)
        count = epoll_wait(
            load.epoll, load.events, EVENTS_MAX, wait_ms(now, min(until, timers_next_ns(&load.timers)))
        )
        for i in range(count):
            number = <int32_t> load.events[i].data.u32
            if number == TIMER_NUMBER or load.all[number].phase == APART:
                continue
            if load.all[number].phase == CONNECTING:
                connected(load, number)
                continue
            if load.all[number].phase == SENDING and load.events[i].events & EPOLLOUT:
                send_more(load, number)
            if load.all[number].phase > CONNECTING and load.events[i].events & ~(<uint32_t> EPOLLOUT):
                hear(load, number)
        now = now_ns()
