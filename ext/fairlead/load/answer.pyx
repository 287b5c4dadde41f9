"""One HTTP/1.1 answer as it comes in, in whatever pieces.

Promise: each byte is looked at once and moved at most twice, in a buffer of fixed size; nothing outside it is read
whatever the bytes are. What is no HTTP/1.1 is BROKEN and what stops early is CUT: neither passes for an answer.

Theory. The framing is taken out in place. The buffer holds the body's bytes that the reader has not yet taken at its
front and what was received behind it; a chunk's bytes move from there to the end of the front. The front never
overtakes the rest, because framing only ever makes it shorter. A head, and a line of the framing, must fit one half
of the buffer; the reader leaves no more than the other half of payload lying, so there is always room.
"""

cimport cython
from fairlead.load.sockets cimport memmem, strncasecmp
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy, memmove

cdef enum:
    DIGITS_MAX = 15  # of a length; more would not fit int64


cdef void answer_begin(Answer *answer) noexcept nogil:
    answer.state = IN_HEAD
    answer.status = 0
    answer.keep_alive = True
    answer.event_stream = False
    answer.left = 0
    answer.body_bytes = 0
    answer.payload = answer.raw = answer.filled = 0


cdef bint is_header(const char *line, const char *end, const char *name, int32_t size) noexcept nogil:
    return end - line > size and line[size] == b":" and strncasecmp(line, name, <size_t> size) == 0


cdef bint says(const char *line, const char *end, const char *word, int32_t size) noexcept nogil:
    """Whether the word stands in the line, in any case of letters."""
    while end - line >= size:
        if strncasecmp(line, word, <size_t> size) == 0:
            return True
        line += 1
    return False


cdef int64_t decimal(const char *at, const char *end) noexcept nogil:
    """The value of a header, or -1."""
    cdef int64_t value = 0
    cdef int digits = 0
    while at < end and at[0] == b" ":
        at += 1
    while at < end and b"0" <= at[0] <= b"9" and digits < DIGITS_MAX:
        value = value * 10 + (at[0] - c"0")
        digits += 1
        at += 1
    return value if digits > 0 and at == end else -1


cdef int64_t hexadecimal(const char *at, const char *end) noexcept nogil:
    """The size of a chunk, whose line may go on after a semicolon, or -1."""
    cdef int64_t value = 0
    cdef int digits = 0
    cdef char letter
    while at < end and digits < DIGITS_MAX:
        letter = at[0] | 32
        if b"0" <= at[0] <= b"9":
            value = value * 16 + (at[0] - c"0")
        elif b"a" <= letter <= b"f":
            value = value * 16 + (letter - c"a" + 10)
        else:
            break
        digits += 1
        at += 1
    return value if digits > 0 and (at == end or at[0] == b";" or at[0] == b" ") else -1


cdef void read_header(Answer *answer, const char *line, const char *end, int *body) noexcept nogil:
    """body: how the body is framed, as far as the headers have said."""
    cdef char first = line[0] | 32
    if first == b"c":
        if is_header(line, end, b"content-length", 14):
            answer.left = decimal(line + 15, end)
            if answer.left < 0 or body[0] == IN_BODY:
                answer.state = BROKEN
            if body[0] == UNTIL_CLOSE:
                body[0] = IN_BODY
        elif is_header(line, end, b"content-type", 12):
            answer.event_stream = says(line + 13, end, b"text/event-stream", 17)
        elif is_header(line, end, b"connection", 10) and says(line + 11, end, b"close", 5):
            answer.keep_alive = False
    elif first == b"t" and is_header(line, end, b"transfer-encoding", 17):
        if says(line + 18, end, b"chunked", 7):
            body[0] = IN_CHUNK_SIZE


cdef bint read_head(Answer *answer) noexcept nogil:
    """False: it is not all here."""
    cdef const char *line = answer.buffer + answer.raw
    cdef const char *end = <const char *> memmem(line, <size_t> (answer.filled - answer.raw), b"\r\n\r\n", 4)
    cdef const char *stop
    cdef int body = UNTIL_CLOSE
    if end == NULL:
        return False
    if end - line < 12 or strncasecmp(line, b"HTTP/1.", 7) != 0 or line[8] != b" ":
        answer.state = BROKEN
        return True
    answer.keep_alive = line[7] == b"1"
    answer.status = <int32_t> decimal(line + 9, line + 12)
    answer.raw = <int32_t> (end + 4 - answer.buffer)
    line = <const char *> memchr(line, b"\n", <size_t> (end + 2 - line)) + 1
    while line < end and answer.state == IN_HEAD:
        stop = <const char *> memmem(line, <size_t> (end + 2 - line), b"\r\n", 2)
        read_header(answer, line, stop, &body)
        line = stop + 2
    if answer.status < 100:
        answer.state = BROKEN
    elif answer.state == BROKEN or answer.status < 200:
        pass  # an interim answer: the head proper follows
    elif answer.status == 204 or answer.status == 304:
        answer.state = COMPLETE
    else:
        answer.state = body
        answer.keep_alive &= body != UNTIL_CLOSE
    return True


cdef bint move_body(Answer *answer) noexcept nogil:
    """Put what is here of the body behind what the reader has not yet taken. False: nothing is here."""
    cdef int64_t count = answer.filled - answer.raw
    if answer.state != UNTIL_CLOSE:
        count = min(count, answer.left)
        answer.left -= count
    if count > 0:
        memmove(answer.buffer + answer.payload, answer.buffer + answer.raw, <size_t> count)
    answer.payload += <int32_t> count
    answer.raw += <int32_t> count
    answer.body_bytes += count
    if answer.state != UNTIL_CLOSE and answer.left == 0:
        answer.state = COMPLETE if answer.state == IN_BODY else AFTER_CHUNK
        return True
    return False


cdef bint read_line(Answer *answer) noexcept nogil:
    """One line of the chunks' framing. False: it is not all here."""
    cdef const char *line = answer.buffer + answer.raw
    cdef const char *end = <const char *> memmem(line, <size_t> (answer.filled - answer.raw), b"\r\n", 2)
    if end == NULL:
        return False
    answer.raw = <int32_t> (end + 2 - answer.buffer)
    if answer.state == IN_CHUNK_SIZE:
        answer.left = hexadecimal(line, end)
        if answer.left < 0:
            answer.state = BROKEN
        else:
            answer.state = IN_CHUNK if answer.left > 0 else IN_TRAILER
    elif answer.state == AFTER_CHUNK:
        answer.state = IN_CHUNK_SIZE if line == end else BROKEN
    elif line == end:
        answer.state = COMPLETE
    return True


cdef void answer_advance(Answer *answer, int32_t received) noexcept nogil:
    """So many bytes have come to answer_room."""
    cdef bint more = True
    answer.filled += received
    while more and answer.state < COMPLETE:
        if answer.state == IN_HEAD:
            more = read_head(answer)
        elif answer.state == IN_BODY or answer.state == IN_CHUNK or answer.state == UNTIL_CLOSE:
            more = move_body(answer)
        else:
            more = read_line(answer)
    if answer.state == COMPLETE and answer.raw < answer.filled:
        answer.state = BROKEN
    if answer.state < COMPLETE and answer.filled - answer.raw >= ANSWER_BUFFER // 2:
        answer.state = BROKEN
    answer_take(answer, 0)


cdef void answer_take(Answer *answer, int32_t taken) noexcept nogil:
    """The reader is done with so many bytes of the payload: close the gaps."""
    cdef int32_t rest = answer.filled - answer.raw
    answer.payload -= taken
    if taken > 0:
        memmove(answer.buffer, answer.buffer + taken, <size_t> answer.payload)
    if rest > 0:
        memmove(answer.buffer + answer.payload, answer.buffer + answer.raw, <size_t> rest)
    answer.raw = answer.payload
    answer.filled = answer.payload + rest


cdef void answer_end(Answer *answer) noexcept nogil:
    """The connection ended."""
    if answer.state < COMPLETE:
        answer.state = COMPLETE if answer.state == UNTIL_CLOSE else CUT


_STATES = ("more", "more", "more", "more", "more", "more", "more", "complete", "broken", "cut")


@cython.final
cdef class AnswerReader:
    cdef Answer answer

    def __cinit__(self):
        self.answer.buffer = <char *> calloc(ANSWER_BUFFER, 1)
        if self.answer.buffer == NULL:
            raise MemoryError
        answer_begin(&self.answer)

    def __dealloc__(self):
        free(self.answer.buffer)

    def feed(self, bytes data not None, /):
        cdef const char *source = data
        cdef size_t room
        cdef size_t done = 0
        cdef size_t count
        cdef char *to
        cdef list body = []
        while done < <size_t> len(data) and self.answer.state < COMPLETE:
            to = answer_room(&self.answer, &room)
            count = min(room, <size_t> len(data) - done)
            memcpy(to, source + done, count)
            answer_advance(&self.answer, <int32_t> count)
            done += count
            body.append(self.answer.buffer[:self.answer.payload])
            answer_take(&self.answer, self.answer.payload)
        if done < <size_t> len(data):
            self.answer.state = BROKEN
        return b"".join(body)

    def end(self):
        answer_end(&self.answer)

    @property
    def state(self):
        return _STATES[self.answer.state]

    @property
    def status(self):
        return self.answer.status

    @property
    def keep_alive(self):
        return bool(self.answer.keep_alive)

    @property
    def event_stream(self):
        return bool(self.answer.event_stream)
