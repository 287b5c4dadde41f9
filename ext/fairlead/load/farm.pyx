"""The far end of a benchmark: an inference server that costs next to nothing.

Promise: it answers each request that was sent whole, in order, once; a plain answer is one send, a chunk of a stream
is one send at its own absolute time, so that the pace is right on average however late the loop is. A client that
leaves frees its slot at once. What is simulated is time and places, not words, and every answer says so.

Theory. How to answer is written in the prompt, because prompts are what routers leave alone:

    bench:NONCE:CHUNKS:PACE:STEP:   16 digits; chunks of a stream, 0 for a plain answer; microseconds between two;
                                    1: in step

The answer repeats bench:NONCE:, and a chunk says bench:NONCE:NUMBER:TIME:, TIME being the CLOCK_MONOTONIC of its send
in ns. The first chunk leaves at once. In step, all further ones of all streams of a pace leave together, as they do
from an engine that batches; out of step, the second leaves after a part of the pace that depends on the nonce, lest
streams that began together have their chunks together. A request without such a mark has a plain answer.

A body that does not fit the buffer is skipped; its mark must stand in the front of it.
"""

from fairlead.load.digits cimport read_digits, write_digits
from fairlead.load.sockets cimport (
    EPOLLIN, EPOLLOUT, EVENTS_MAX, MSG_NOSIGNAL, epoll_wait, memmem, now_ns, recv, send, shut, strncasecmp,
    tcp_accept, timer_arm, wait_ms, watch,
)
from fairlead.load.timers cimport timers_clear, timers_next_ns, timers_pop, timers_set
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

cdef enum:
    LENGTH_MAX = 1 << 30
    PACE_MAX_US = 1_000_000_000


# Sending -----------------------------------------------------------------------------------------------


cdef bint push(Farm *farm, int32_t number, const char *data, int32_t size) noexcept nogil:
    """False: the socket did not take all of it; the rest goes when it can (or never: then the client is gone)."""
    cdef Client *client = &farm.all[number]
    cdef ssize_t count = send(client.fd, data, <size_t> size, MSG_NOSIGNAL)
    if count == size:
        return True
    count = max(count, <ssize_t> 0)
    client.pending_at = 0
    client.pending_size = size - <int32_t> count
    memcpy(client.pending, data + count, <size_t> client.pending_size)
    watch(farm.epoll, client.fd, EPOLLIN | EPOLLOUT, <uint32_t> number, False)
    return False


cdef void flush(Farm *farm, int32_t number) noexcept nogil:
    cdef Client *client = &farm.all[number]
    cdef ssize_t count = send(
        client.fd, client.pending + client.pending_at, <size_t> client.pending_size, MSG_NOSIGNAL
    )
    if count > 0:
        client.pending_at += <int32_t> count
        client.pending_size -= <int32_t> count
    if client.pending_size > 0:
        return
    watch(farm.epoll, client.fd, EPOLLIN, <uint32_t> number, False)
    if client.phase == STREAMING:
        go_on(farm, number)
    else:
        answered(farm, number)


cdef void answer(Farm *farm, int32_t number, Text *text) noexcept nogil:
    if push(farm, number, text.bytes, text.size):
        answered(farm, number)


cdef void answer_plain(Farm *farm, int32_t number) noexcept nogil:
    cdef Text *text = &farm.plain
    memcpy(text.bytes + text.nonce_at[0], farm.all[number].nonce, NONCE_DIGITS)
    memcpy(text.bytes + text.nonce_at[1], farm.all[number].nonce, NONCE_DIGITS)
    farm.served.plain += 1
    answer(farm, number, text)


cdef int32_t write_chunk(Farm *farm, Client *client, char *to) noexcept nogil:
    """The next chunk, with what begins or ends a stream around it; its size."""
    cdef Text *event = &farm.event
    cdef int32_t size = 0
    cdef bint is_last = client.chunk == client.chunks - 1
    if client.chunk == 0:
        memcpy(to, farm.head.bytes, <size_t> farm.head.size)
        size = farm.head.size
    memcpy(event.bytes + event.nonce_at[0], client.nonce, NONCE_DIGITS)
    memcpy(event.bytes + event.nonce_at[1], client.nonce, NONCE_DIGITS)
    write_digits(event.bytes + event.number_at, NUMBER_DIGITS, client.chunk)
    write_digits(event.bytes + event.time_at, TIME_DIGITS, now_ns())
    if is_last:
        memcpy(event.bytes + event.finish_at, b'"length"', 8)
    else:
        memcpy(event.bytes + event.finish_at, b"null    ", 8)
    memcpy(to + size, event.bytes, <size_t> event.size)
    size += event.size
    if is_last:
        memcpy(to + size, farm.last.bytes, <size_t> farm.last.size)
        size += farm.last.size
    client.chunk += 1
    farm.served.chunks += 1
    return size


cdef void send_chunks(Farm *farm, int32_t number) noexcept nogil:
    """One, or all that the socket takes if there is no pace."""
    cdef Client *client = &farm.all[number]
    cdef int32_t size
    while client.chunk < client.chunks:
        size = write_chunk(farm, client, farm.scratch)
        while client.pace_ns == 0 and client.chunk < client.chunks and size <= NODE_BUFFER - 2 * TEXT_MAX:
            size += write_chunk(farm, client, farm.scratch + size)
        if not push(farm, number, farm.scratch, size):
            return
        if client.pace_ns > 0:
            break
    go_on(farm, number)


cdef void go_on(Farm *farm, int32_t number) noexcept nogil:
    """What was to send of a stream is sent."""
    cdef Client *client = &farm.all[number]
    if client.chunk == client.chunks:
        farm.served.streams += 1
        answered(farm, number)
    elif client.pace_ns == 0:
        send_chunks(farm, number)
    else:
        timers_set(&farm.timers, number, client.due_ns)


# Requests ----------------------------------------------------------------------------------------------


cdef void answered(Farm *farm, int32_t number) noexcept nogil:
    """The answer is sent, whatever it was."""
    cdef Client *client = &farm.all[number]
    if client.phase == WORKING or client.phase == STREAMING:
        farm.running -= 1
    client.phase = READING
    if client.close:
        leave(farm, number)
    elif client.filled > 0:
        read_request(farm, number)


cdef int64_t second_due(Client *client, int64_t now) noexcept nogil:
    """When the second chunk is due, and with it all others."""
    cdef int64_t part = 0
    cdef int i
    if client.pace_ns == 0:
        return now
    if client.in_step:
        return (now // client.pace_ns + 1) * client.pace_ns
    for i in range(1, 5):  # from the last digit: neighbouring nonces are far apart in the pace
        part = part * 10 + (client.nonce[NONCE_DIGITS - i] - c"0")
    return now + client.pace_ns * (part + 1) // 10000


cdef void start(Farm *farm, int32_t number) noexcept nogil:
    """It has its slot."""
    cdef Client *client = &farm.all[number]
    farm.running += 1
    if client.chunks > 0:
        client.phase = STREAMING
        client.due_ns = second_due(client, now_ns())
        send_chunks(farm, number)
        return
    client.phase = WORKING
    if farm.service_ns > 0:
        timers_set(&farm.timers, number, now_ns() + farm.service_ns)
    else:
        answer_plain(farm, number)


cdef void generate(Farm *farm, int32_t number, const char *body, const char *end) noexcept nogil:
    """Read the mark, then serve the request or let it wait for a slot."""
    cdef Client *client = &farm.all[number]
    cdef const char *mark = <const char *> memmem(body, <size_t> (end - body), b"bench:", 6)
    memset(client.nonce, c"0", NONCE_DIGITS)
    client.pace_ns = client.chunks = client.chunk = client.in_step = 0
    if mark != NULL and end - mark > 7 + NONCE_DIGITS:
        memcpy(client.nonce, mark + 6, NONCE_DIGITS)
        mark += 7 + NONCE_DIGITS
        client.chunks = <int32_t> min(read_digits(&mark, end), <int64_t> 999_999)
        client.pace_ns = min(read_digits(&mark, end), <int64_t> PACE_MAX_US) * 1000
        client.in_step = read_digits(&mark, end) == 1
    if farm.slots == 0 or farm.running < farm.slots:
        start(farm, number)
        return
    client.phase = WAITING
    client.next = -1
    if farm.queue_first < 0:
        farm.queue_first = number
    else:
        farm.all[farm.queue_last].next = number
    farm.queue_last = number
    farm.waiting += 1


cdef void fill_slots(Farm *farm) noexcept nogil:
    cdef int32_t number
    while farm.queue_first >= 0 and farm.running < farm.slots:
        number = farm.queue_first
        farm.queue_first = farm.all[number].next
        farm.waiting -= 1
        if farm.all[number].fd < 0:
            release(farm, number)
        else:
            start(farm, number)


cdef int64_t content_length(Client *client, const char *line, const char *end) noexcept nogil:
    """Of the head's lines; -1: none that we take. Notes Connection: close, too."""
    cdef const char *at
    cdef int64_t length = 0
    client.close = False
    while line < end:
        if end - line > 16 and strncasecmp(line, b"content-length:", 15) == 0:
            at = line + 15
            while at < end and at[0] == b" ":
                at += 1
            length = read_digits(&at, end)
        elif end - line > 18 and strncasecmp(line, b"transfer-encoding:", 18) == 0:
            return -1
        elif end - line > 17 and strncasecmp(line, b"connection: close", 17) == 0:
            client.close = True
        line = <const char *> memchr(line, b"\n", <size_t> (end - line)) + 1
    return length if length <= LENGTH_MAX else -1


cdef void refuse(Farm *farm, int32_t number) noexcept nogil:
    """It can't be read, and so neither can what follows."""
    farm.served.bad += 1
    farm.all[number].filled = 0
    farm.all[number].close = True
    answer(farm, number, &farm.bad)


cdef void read_request(Farm *farm, int32_t number) noexcept nogil:
    """Serve what is in the buffer, if it is a whole request, or as much of one as fits."""
    cdef Client *client = &farm.all[number]
    cdef const char *start_of = client.buffer
    cdef const char *body = <const char *> memmem(start_of, <size_t> client.filled, b"\r\n\r\n", 4)
    cdef int64_t length
    if body == NULL:
        if client.filled == NODE_BUFFER:
            refuse(farm, number)
        return
    body += 4
    length = content_length(client, start_of, body)
    if length < 0:
        refuse(farm, number)
        return
    client.skip = body - start_of + length - client.filled
    if client.skip > 0 and client.filled < NODE_BUFFER:
        client.skip = 0
        return
    if client.skip <= 0:
        serve(farm, number, <int32_t> (body - start_of), <int32_t> length)


cdef void serve(Farm *farm, int32_t number, int32_t head, int32_t length) noexcept nogil:
    """The buffer begins with a request of these sizes: take it out, and answer it."""
    cdef Client *client = &farm.all[number]
    cdef char *rest = client.buffer + head + length
    memcpy(farm.scratch, client.buffer, <size_t> (head + length))
    client.filled -= head + length
    memmove(client.buffer, rest, <size_t> client.filled)
    dispatch(farm, number, farm.scratch, head, length)


cdef void dispatch(Farm *farm, int32_t number, const char *request, int32_t head, int32_t length) noexcept nogil:
    if memcmp(request, b"POST ", 5) == 0:
        generate(farm, number, request + head, request + head + length)
        return
    farm.served.other += 1
    if memcmp(request, b"GET /v1/models", 14) == 0:
        answer(farm, number, &farm.models)
    elif memcmp(request, b"GET /health", 11) == 0:
        answer(farm, number, &farm.well)
    else:
        answer(farm, number, &farm.nothing)


# Connections -------------------------------------------------------------------------------------------


cdef void release(Farm *farm, int32_t number) noexcept nogil:
    farm.all[number].phase = FREE
    farm.all[number].next = farm.free
    farm.free = number


cdef void leave(Farm *farm, int32_t number) noexcept nogil:
    """The connection is over, from either side."""
    cdef Client *client = &farm.all[number]
    shut(client.fd)
    client.fd = -1
    timers_clear(&farm.timers, number)
    if client.phase == WORKING or client.phase == STREAMING:
        farm.running -= 1
    if client.phase != READING:
        farm.served.aborted += 1
    if client.phase != WAITING:
        release(farm, number)


cdef void welcome(Farm *farm, int listener) noexcept nogil:
    """Everybody who has come."""
    cdef int fd = tcp_accept(listener)
    cdef int32_t number
    while fd >= 0:
        number = farm.free
        if number < 0 or not watch(farm.epoll, fd, EPOLLIN, <uint32_t> number, True):
            farm.served.full += 1
            shut(fd)
        else:
            farm.free = farm.all[number].next
            farm.all[number].fd = fd
            farm.all[number].phase = READING
            farm.all[number].close = False
            farm.all[number].filled = farm.all[number].pending_size = 0
            farm.all[number].skip = 0
        fd = tcp_accept(listener)


cdef void hear(Farm *farm, int32_t number) noexcept nogil:
    cdef Client *client = &farm.all[number]
    cdef bint skips = client.phase == READING and client.skip > 0
    cdef char *to = &farm.scratch[0] if skips else client.buffer + client.filled
    cdef int64_t room = min(client.skip, <int64_t> NODE_BUFFER) if skips else NODE_BUFFER - client.filled
    cdef ssize_t count = recv(client.fd, to, <size_t> room, 0)
    if count < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if count <= 0:
        leave(farm, number)
    elif skips:
        client.skip -= count
        if client.skip == 0:
            client.filled = 0
            dispatch(farm, number, client.buffer, 0, NODE_BUFFER)
    else:
        client.filled += <int32_t> count
        if client.phase == READING and client.pending_size == 0:
            read_request(farm, number)


# The loop ----------------------------------------------------------------------------------------------


cdef void ring(Farm *farm, int64_t now) noexcept nogil:
    """Whose time has come."""
    cdef int32_t number = timers_pop(&farm.timers, now)
    while number >= 0:
        if farm.all[number].phase == STREAMING:
            farm.all[number].due_ns += farm.all[number].pace_ns
            send_chunks(farm, number)
        else:
            answer_plain(farm, number)
        number = timers_pop(&farm.timers, now)


cdef void attend(Farm *farm, int32_t number, uint32_t events) noexcept nogil:
    if farm.all[number].fd >= 0 and events & ~(<uint32_t> EPOLLOUT):
        hear(farm, number)
    if farm.all[number].fd >= 0 and farm.all[number].pending_size > 0:
        flush(farm, number)


cdef void farm_turn(Farm *farm, int64_t until) noexcept nogil:
    cdef int64_t now = now_ns()
    cdef int count
    cdef int i
    cdef int32_t number
    while now < until:
        ring(farm, now)
        fill_slots(farm)
        # To the nanosecond: chunks that are due within one millisecond are not to leave together.
        if timers_next_ns(&farm.timers) != farm.armed_ns:
            farm.armed_ns = timers_next_ns(&farm.timers)
            timer_arm(farm.timer, farm.armed_ns)
        count = epoll_wait(farm.epoll, farm.events, EVENTS_MAX, wait_ms(now, until))
        for i in range(count):
            number = <int32_t> farm.events[i].data.u32
            if number == TIMER_NUMBER:
                farm.armed_ns = INT64_MAX
            elif number >= farm.capacity:
                welcome(farm, farm.listeners[number - farm.capacity])
            else:
                attend(farm, number, farm.events[i].events)
        now = now_ns()
