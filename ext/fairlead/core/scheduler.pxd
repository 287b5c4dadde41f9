"""The scheduler's C interface, for other extensions (the lane, the benchmark loop); see scheduler.pyx."""

from fairlead.core.fairqueue cimport FairQueue
from fairlead.core.heap cimport Entry, Heap, Pages
from fairlead.core.nodes cimport NodeTable
from fairlead.core.slots cimport Slots
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef enum:
    REFUSED_QUEUE_FULL = -1
    REFUSED_USER_QUEUE_FULL = -2
    REFUSED_BYTES_FULL = -3

cdef enum:
    KIND_DISPATCHED = 1
    KIND_EXPIRED = 2
    KIND_NO_NODE = 3

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

cdef struct Core:
    # set once
    int64_t waiting_bytes_max
    int64_t no_node_wait_ns
    int32_t waiting_max
    int32_t running_max
    int32_t pool_max
    int32_t decision_max
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
    Counters counters

cdef struct Submission:
    int64_t deadline_ns
    uint64_t user
    int32_t pool
    int32_t weight
    int32_t cost
    int32_t width
    int32_t size_bytes
    int32_t running_max    # of the user; 0: no limit
    int32_t waiting_max    # of the user; 0: no limit

cdef int64_t core_submit(Core *core, Submission *submission) noexcept nogil
cdef int32_t core_drain(Core *core) noexcept nogil
cdef bint core_finish(Core *core, int64_t handle, int32_t outcome, int32_t cost) noexcept nogil
cdef bint core_cancel(Core *core, int64_t handle) noexcept nogil
cdef bint core_requeue(Core *core, int64_t handle) noexcept nogil
cdef bint core_move(Core *core, int64_t handle, int32_t pool) noexcept nogil

cdef class Scheduler:
    cdef Core core
    cdef unsigned long owner
    cdef int enter(self, int64_t now_ns) except -1
    cdef int require_pool(self, int64_t pool) except -1
    cdef bint allocate(self, int64_t requests, int64_t flows, int32_t nodes_max, bint fifo, int32_t routing,
                       double gpu_weight, double queue_weight, int64_t rebase_at, int64_t seed) noexcept
    cdef list pools_of(self, int32_t node)
