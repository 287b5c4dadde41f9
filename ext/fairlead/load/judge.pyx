"""What the answers to a benchmark's requests are worth.

Promise: only an answer that is whole, has status 200, the length that was asked for and the request's own nonce is
good; a stream also has all its chunks, in order, and its [DONE]. Whatever bytes come, each has one verdict.

Our node writes bench:NONCE: into an answer, and bench:NONCE:NUMBER:TIME: into every chunk of a stream. Other engines
do not (Plan.echo is off then), and some end a stream without [DONE].
"""

from fairlead.load.answer cimport ANSWER_BUFFER, BROKEN, COMPLETE, CUT, Answer, answer_take
from fairlead.load.client cimport (
    BAD_STATUS, BAD_STREAM, BROKEN_HTTP, CUT_OFF, NONCE_DIGITS, WRONG_LENGTH, WRONG_NONCE, Connection, Load,
)
from fairlead.load.digits cimport read_digits
from fairlead.load.histogram cimport histogram_record
from fairlead.load.sockets cimport memmem, now_ns
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memchr, memcmp

cdef enum:
    MARK = 6 + NONCE_DIGITS    # bench:NONCE
    KEEP = MARK                # bytes of a plain body that are kept for one that comes in two pieces


cdef void look_for_mark(Load *load, Connection *one, const char *at, size_t size) noexcept nogil:
    cdef const char *found = <const char *> memmem(at, size, b"bench:", 6)
    if found == NULL or at + size - found < MARK:
        return
    one.marked = True
    one.strange |= memcmp(found + 6, one.request + load.plan.nonce_at, NONCE_DIGITS) != 0


cdef void take_event(Load *load, Connection *one, const char *at, size_t size, int64_t now) noexcept nogil:
    """A line of a stream. Our node's chunks hold bench:NONCE:NUMBER:TIME: behind each other."""
    cdef const char *found
    cdef const char *end = at + size
    if size < 6 or memcmp(at, b"data:", 5) != 0:
        return
    if memmem(at, min(size, <size_t> 16), b"[DONE]", 6) != NULL:
        one.done = True
        return
    if memmem(at, min(size, <size_t> 16), b'{"error"', 8) != NULL:
        one.disordered = True
        return
    if load.plan.echo:
        look_for_mark(load, one, at, size)
        found = <const char *> memmem(at, size, b"bench:", 6)
        one.strange |= found == NULL
        found = end if found == NULL else min(found + MARK + 1, end)
        one.disordered |= read_digits(&found, end) != one.chunks
        if found < end:
            histogram_record(&load.tally.transit, now - read_digits(&found, end))
    if one.chunks == 0:
        load.flowing += 1
        histogram_record(&load.tally.first, now - one.due_ns)
    else:
        histogram_record(&load.tally.gap, now - one.last_ns)
    one.last_ns = now
    one.chunks += 1
    load.tally.chunks += 1


cdef void take_lines(Load *load, Connection *one) noexcept nogil:
    cdef Answer *answer = &one.answer
    cdef int64_t now = now_ns()
    cdef char *start = answer.buffer
    cdef char *end = answer.buffer + answer.payload
    cdef char *stop
    while start < end:
        stop = <char *> memchr(start, b"\n", <size_t> (end - start))
        if stop == NULL:
            break
        take_event(load, one, start, <size_t> (stop - start), now)
        start = stop + 1
    if start == answer.buffer and answer.payload > ANSWER_BUFFER // 2:
        # A line that does not fit: what it is stands at its front, so a mark there is all that is looked for.
        take_event(load, one, start, <size_t> (end - start), now)
        start = end
    answer_take(answer, <int32_t> (start - answer.buffer))


cdef void take_body(Load *load, Connection *one) noexcept nogil:
    cdef Answer *answer = &one.answer
    if answer.state == COMPLETE or answer.payload > ANSWER_BUFFER // 2:
        if load.plan.echo and not one.marked:
            look_for_mark(load, one, answer.buffer, <size_t> answer.payload)
        answer_take(answer, answer.payload if answer.state == COMPLETE else max(0, answer.payload - KEEP))


cdef int verdict(Load *load, Connection *one) noexcept nogil:
    """The fault of an answer that is there, or -1."""
    cdef int64_t length = one.chunks if load.plan.stream else one.answer.body_bytes
    if one.answer.state == BROKEN:
        return BROKEN_HTTP
    if one.answer.state == CUT:
        return CUT_OFF
    if one.answer.status != 200:
        return BAD_STATUS
    if load.plan.echo and (one.strange or not one.marked):
        return WRONG_NONCE
    if load.plan.stream and (one.disordered or not one.answer.event_stream or (load.plan.echo and not one.done)):
        return BAD_STREAM
    if load.plan.length > 0 and length != load.plan.length:
        return WRONG_LENGTH
    return -1
