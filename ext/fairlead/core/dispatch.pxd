"""The scheduler without Python: one struct, and what can be done with it; see dispatch.pyx."""

from fairlead.core.heap cimport Entry, Heap, Pages
from fairlead.core.nodes cimport NodeTable
from fairlead.core.shares cimport FairQueue
from fairlead.core.slots cimport Request, Slots
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t

cdef enum:
    UP_NS = -1  # in down_since: the pool has a usable node

cdef enum:
    REFUSED_QUEUE_FULL = -1
    REFUSED_USER_QUEUE_FULL = -2
    REFUSED_BYTES_FULL = -3

cdef enum:
    KIND_DISPATCHED = 1
    KIND_EXPIRED = 2
    KIND_NO_NODE = 3
    KIND_PUSHED_OUT = 4

cdef enum:
    ENDED_COMPLETED = 1
    ENDED_CANCELLED = 2
    ENDED_FAILED = 3

cdef struct Decision:
    int64_t handle
    int64_t node
    int32_t kind

cdef struct Counters:
    int64_t received
    int64_t refused_queue_full
    int64_t refused_user_queue_full
    int64_t refused_bytes_full
    int64_t dispatched
    int64_t requeued
    int64_t completed
    int64_t cancelled
    int64_t cancelled_waiting
    int64_t failed
    int64_t expired
    int64_t no_node
    int64_t pushed_out

cdef struct Core:
    # set once
    int64_t waiting_bytes_max
    int64_t no_node_wait_ns
    int32_t waiting_max
    int32_t running_max
    int32_t pool_max
    int32_t group_max
    int32_t decision_max
    bint push_out
    # parts
    Slots slots
    FairQueue queue
    NodeTable nodes
    Heap deadlines         # of waiting requests, by (effective deadline, place in time)
    Pages deadline_pages
    Entry **deadline_table
    int32_t *deadline_position
    int64_t *down_since    # per pool: when it lost its last usable node; UP_NS while it has one
    Decision *decisions
    # changes
    int64_t now_ns
    int32_t decision_count
    int32_t evicted        # first of the requests that drain has to report as pushed out, oldest first
    int32_t evicted_last
    Counters counters

cdef struct Submission:
    int64_t deadline_ns
    uint64_t user
    int32_t place          # a pool or a group
    int32_t weight
    int32_t cost
    int32_t width
    int32_t size_bytes
    int32_t running_max    # of the user; 0: no limit
    int32_t waiting_max    # of the user; 0: no limit; -1: nor may it push anybody out

cdef bint core_init(Core *core, int64_t requests, int64_t flows, int32_t nodes_max, int32_t limits_max, bint fifo,
                    int32_t routing, double gpu_weight, double queue_weight, int64_t rebase_at, int64_t seed,
                    bint by_deadline) noexcept
cdef void core_discard(Core *core) noexcept
cdef int64_t core_submit(Core *core, Submission *submission) noexcept nogil
cdef int32_t core_drain(Core *core) noexcept nogil
cdef bint core_finish(Core *core, int64_t handle, int32_t outcome, int32_t cost) noexcept nogil
cdef bint core_cancel(Core *core, int64_t handle) noexcept nogil
cdef bint core_requeue(Core *core, int64_t handle) noexcept nogil
cdef bint core_move(Core *core, int64_t handle, int32_t place) noexcept nogil
cdef void core_forget_node(Core *core, int32_t node) noexcept nogil
cdef void pool_changed(Core *core, int32_t pool) noexcept nogil
cdef void node_changed(Core *core, int32_t node) noexcept nogil

cdef inline int32_t level_of(int32_t place) noexcept nogil:
    return place + 1

cdef inline int32_t pool_of(Core *core, Request *request) noexcept nogil:
    return core.queue.levels[core.queue.shares[request.flow].parent].pool

cdef inline int64_t effective_deadline(Core *core, Request *request, int32_t pool) noexcept nogil:
    cdef int64_t since = core.down_since[pool]
    if since == UP_NS:
        return request.deadline_ns
    if since < request.queued_ns:
        since = request.queued_ns
    if since > INT64_MAX - core.no_node_wait_ns:
        return request.deadline_ns
    return min(request.deadline_ns, since + core.no_node_wait_ns)
