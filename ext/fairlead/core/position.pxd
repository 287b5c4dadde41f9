"""The place in line of a request, waiting or to come; see position.pyx."""

from fairlead.core.shares cimport FairQueue
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef int64_t queue_position(FairQueue *queue, int32_t slot) noexcept nogil
cdef int64_t queue_position_if(FairQueue *queue, int32_t level, uint64_t key, int32_t weight,
                               int64_t deadline_ns) noexcept nogil
