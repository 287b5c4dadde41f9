"""The waiting room's shares: who has more than its part of it; see crowd.pyx."""

from fairlead.core.shares cimport FairQueue
from libc.stdint cimport int32_t, int64_t

cdef bint crowd_init(FairQueue *queue, int64_t user_max) noexcept
cdef void crowd_free(FairQueue *queue) noexcept
cdef void crowd_begin(FairQueue *queue) noexcept nogil
cdef void crowd_update(FairQueue *queue, int32_t user) noexcept nogil
cdef bint crowd_is_below_share(FairQueue *queue, int32_t user, int32_t weight, int64_t size_bytes,
                               int64_t waiting_max, int64_t bytes_max, bint by_bytes) noexcept nogil
cdef int32_t crowd_victim(FairQueue *queue, bint by_bytes) noexcept nogil
cdef const char *crowd_fault(FairQueue *queue) noexcept nogil
