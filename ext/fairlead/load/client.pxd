"""The client side of a benchmark; theory in client.pyx."""

from fairlead.load.answer cimport Answer
from fairlead.load.histogram cimport Histogram
from fairlead.load.sockets cimport EVENTS_MAX, epoll_event
from fairlead.load.timers cimport Timers
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef enum:
    NONCE_DIGITS = 16
    USER_DIGITS = 7
    ADDRESS_MAX = 64
    STATUS_MAX = 600
    BACKLOG_MAX = 1 << 20
    NONCE_MODULUS = 10_000_000_000_000_000
    TIMER_NUMBER = 0x7fffffff  # of the timer, among the numbers of connections

cdef enum:              # phases
    APART          # no connection; its timer says when to try
    CONNECTING
    IDLE
    SENDING        # a part of the request is still here; the answer may begin meanwhile
    WAITING        # for the rest of the answer

cdef enum:              # faults
    REFUSED        # no connection could be made
    CUT_OFF        # the connection ended before the answer did
    BROKEN_HTTP
    BAD_STATUS     # anything but 200
    WRONG_NONCE    # an answer to somebody else's request, or to none
    WRONG_LENGTH   # not as many bytes, or not as many chunks, as were asked for
    BAD_STREAM     # no [DONE], chunks out of order, or an error event
    TIMED_OUT
    FAULTS

cdef struct Connection:
    int fd
    int phase
    int32_t next_idle
    bint served        # it has carried an answer
    bint again         # its request was sent on a connection that had just been closed: send it on the next one
    # per request
    char *request      # its own copy, for the nonce and the user in it
    int64_t sent
    int64_t due_ns     # when it should have been sent: latencies count from here
    int64_t last_ns    # when the last chunk came
    int64_t chunks
    bint marked        # the answer has shown the nonce
    bint strange       # it has shown another one
    bint disordered
    bint done          # [DONE] has come
    Answer answer

cdef struct Tally:
    int64_t good
    int64_t chunks
    int64_t bytes
    int64_t length     # of the last good answer: bytes of body, or chunks
    int64_t connects
    int64_t arrivals
    int64_t missed     # arrivals that found no room to wait
    int64_t stale      # requests sent again
    int64_t faults[FAULTS]
    int64_t statuses[STATUS_MAX]
    Histogram latency  # from the time at which a request was due to the end of its answer
    Histogram first    # streams: to the first chunk
    Histogram gap      # streams: between two chunks
    Histogram transit  # streams of our node: from its send to our receive
    Histogram lag      # open loop: from due to sent, where a connection was free

cdef struct Plan:      # what is asked; set once
    char address[ADDRESS_MAX]
    int port
    int32_t connections
    int64_t request_size
    int64_t nonce_at
    int64_t user_at    # -1: nobody is named
    int64_t users
    double interval_ns  # mean time between two arrivals; 0: closed loop
    bint stream
    bint echo          # answers carry the nonce
    int64_t length     # of an answer's body, or chunks of a stream; 0: any
    int64_t timeout_ns

cdef struct Load:
    Plan plan
    Tally tally
    Connection *all
    char *requests
    char *buffers
    Timers timers
    int epoll
    int timer
    int32_t idle       # first of the idle, or -1
    int32_t untried    # connections from here on have not been begun
    int32_t connecting
    int32_t busy
    int32_t flowing    # streams that have had a chunk
    int64_t nonce      # of the last request
    int64_t count      # requests begun
    double next_ns     # the next arrival
    double armed_ns    # what the timer is set to
    uint64_t random
    int64_t *backlog   # ring: due times of arrivals that wait for a connection
    int64_t backlog_first
    int64_t backlog_size
    bint stopping
    epoll_event events[EVENTS_MAX]

# Run until that time. load is set up, and belongs to the caller, as does all that it points to.
cdef void turn(Load *load, int64_t until) noexcept nogil
