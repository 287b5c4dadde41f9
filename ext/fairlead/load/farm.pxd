"""The far end of a benchmark: an inference server that costs next to nothing; theory in farm.pyx."""

from fairlead.load.sockets cimport EVENTS_MAX, epoll_event
from fairlead.load.timers cimport Timers
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef enum:
    NODE_BUFFER = 16384    # of a request, and of what is sent in one piece
    NONCE_DIGITS = 16
    NUMBER_DIGITS = 6
    TIME_DIGITS = 18
    TEXT_MAX = 2048
    TIMER_NUMBER = 0x7fffffff  # of the timer, among the numbers of clients and listeners
    LISTENERS_MAX = 64
    MODEL_MAX = 64

cdef enum:              # phases
    FREE                   # no connection; one whose client left while it waited is freed when its turn comes
    READING                # a request, or waiting for one
    WAITING                # for a slot
    WORKING                # on a plain answer, until its timer
    STREAMING

cdef struct Text:          # an answer, written once, in which places are overwritten
    char bytes[TEXT_MAX]
    int32_t size
    int32_t nonce_at[2]
    int32_t number_at      # streams: of the chunk
    int32_t time_at
    int32_t finish_at      # null, or "length" in the last chunk

cdef struct Client:
    int fd
    int phase
    bint close             # the connection ends with this answer
    int32_t next           # in the queue for slots, or among the free
    # the request
    char *buffer
    int32_t filled
    int64_t skip           # of the body, still to come
    char nonce[NONCE_DIGITS]
    int64_t pace_ns        # between chunks; 0: as fast as they can be sent
    bint in_step
    int64_t due_ns
    int32_t chunks         # to send; 0: a plain answer
    int32_t chunk          # the next one's number
    # what the socket did not take
    char *pending
    int32_t pending_at
    int32_t pending_size

cdef struct Served:
    int64_t plain
    int64_t streams
    int64_t chunks
    int64_t other          # health, models, and what there is not
    int64_t aborted        # the client left before its answer was all sent
    int64_t bad            # requests that could not be read
    int64_t full           # connections that found no place

cdef struct Farm:
    # set once
    int epoll
    int timer
    int listeners[LISTENERS_MAX]
    int32_t listener_count
    int32_t capacity
    int32_t slots          # 0: any number at once
    int64_t service_ns
    Client *all
    char *buffers          # two of NODE_BUFFER for each client
    Text plain
    Text head              # of a stream
    Text event
    Text last              # what ends a stream
    Text models
    Text well              # to GET /health
    Text nothing           # 404
    Text bad               # 400
    # changes
    Timers timers
    int64_t armed_ns       # what the timer is set to; INT64_MAX: nothing
    int32_t free
    int32_t queue_first    # for slots, or -1
    int32_t queue_last
    int32_t running
    int32_t waiting
    Served served
    epoll_event events[EVENTS_MAX]
    char scratch[NODE_BUFFER]

# Run until that time. farm is set up, and belongs to the caller, as does all that it points to.
cdef void farm_turn(Farm *farm, int64_t until) noexcept nogil
