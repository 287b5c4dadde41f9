"""Users and their flows (a user in a pool): found, made and forgotten; see flows.pyx."""

from fairlead.core.shares cimport FairQueue
from libc.stdint cimport int32_t, uint64_t

cdef int32_t user_find(FairQueue *queue, uint64_t key) noexcept nogil
cdef int32_t flow_find(FairQueue *queue, int32_t user, int32_t parent) noexcept nogil
cdef int32_t flow_obtain(FairQueue *queue, int32_t user, uint64_t key, int32_t parent) noexcept nogil
cdef void flow_configure(FairQueue *queue, int32_t flow, int32_t weight, int32_t running_max) noexcept nogil
cdef void flow_settle(FairQueue *queue, int32_t flow) noexcept nogil
cdef void forget_idle(FairQueue *queue, int32_t level) noexcept nogil
