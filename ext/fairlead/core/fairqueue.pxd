"""Start-time fair queueing of requests over the tree of shares; theory in fairqueue.pyx."""

from fairlead.core.shares cimport FairQueue
from libc.stdint cimport int32_t, int64_t

cdef void queue_append(FairQueue *queue, int32_t flow, int32_t slot) noexcept nogil
cdef void queue_remove(FairQueue *queue, int32_t slot) noexcept nogil
cdef int32_t queue_next(FairQueue *queue, int64_t now_ns) noexcept nogil
cdef void queue_dispatch(FairQueue *queue, int32_t slot) noexcept nogil
cdef void queue_finish(FairQueue *queue, int32_t slot, int64_t cost) noexcept nogil
cdef void queue_requeue(FairQueue *queue, int32_t slot) noexcept nogil
cdef void queue_prefer(FairQueue *queue, int32_t slot) noexcept nogil
cdef void queue_move(FairQueue *queue, int32_t slot, int32_t parent) noexcept nogil
