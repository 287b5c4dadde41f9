"""One HTTP/1.1 answer as it comes in; theory in answer.pyx."""

from libc.stdint cimport int32_t, int64_t

cdef enum:
    ANSWER_BUFFER = 16384

cdef enum:              # states
    IN_HEAD
    IN_BODY            # of a known length
    UNTIL_CLOSE        # a body that ends with the connection
    IN_CHUNK_SIZE
    IN_CHUNK
    AFTER_CHUNK        # its line end
    IN_TRAILER
    # No byte of what follows is looked at in these:
    COMPLETE
    BROKEN             # not HTTP/1.1 as we know it, or more bytes than were announced
    CUT                # the connection ended before the answer did

cdef struct Answer:
    # set once
    char *buffer       # of ANSWER_BUFFER bytes
    # per answer
    int state
    int32_t status     # 0 until the head is there
    bint keep_alive    # the connection may be used again
    bint event_stream  # Content-Type: text/event-stream
    int64_t left       # of the body or the chunk
    int64_t body_bytes
    # places in buffer: [0, payload) is body without its framing, for the reader to take;
    # [raw, filled) is as received and not yet looked at
    int32_t payload
    int32_t raw
    int32_t filled

cdef void answer_begin(Answer *answer) noexcept nogil
cdef void answer_advance(Answer *answer, int32_t received) noexcept nogil
cdef void answer_take(Answer *answer, int32_t taken) noexcept nogil
cdef void answer_end(Answer *answer) noexcept nogil

# Where the next bytes go, and how many may.
cdef inline char *answer_room(Answer *answer, size_t *size) noexcept nogil:
    size[0] = <size_t> (ANSWER_BUFFER - answer.filled)
    return answer.buffer + answer.filled
