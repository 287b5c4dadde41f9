"""Requests and their handles; see slots.pyx."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    NIL = -1

cdef enum:
    FREE = 0
    WAITING = 1
    RUNNING = 2
    EVICTED = 3            # pushed out of the queue, and drain has not said so yet

cdef struct Request:      # 64 bytes: one cache line
    int64_t deadline_ns   # its own; the deadline heap may hold an earlier one while no node is usable
    int64_t queued_ns     # since when it has waited in its pool: submit, requeue or move
    uint64_t order        # place in time among all requests; kept when it is requeued or moved
    int32_t next          # in its flow's queue; in the list of free slots while FREE
    int32_t previous      # in its flow's queue; the weight it was charged at while RUNNING
    int32_t flow
    int32_t node          # index, while RUNNING
    uint32_t node_generation
    uint32_t generation
    int32_t cost          # what was or will be charged at dispatch
    int32_t size_bytes
    int16_t width
    int16_t tried[2]      # nodes to avoid, NIL where there is none
    uint8_t state
    uint8_t attempts

cdef struct Slots:
    Request *requests
    int32_t request_max
    int32_t free_head
    int32_t used

cdef bint slots_init(Slots *slots, int32_t request_max) noexcept
cdef void slots_free(Slots *slots) noexcept
cdef int32_t slots_take(Slots *slots) noexcept nogil
cdef void slots_give(Slots *slots, int32_t slot) noexcept nogil

cdef inline int64_t slots_handle(Slots *slots, int32_t slot) noexcept nogil:
    return (<int64_t> slots.requests[slot].generation << 32) | slot

cdef inline int32_t slots_find(Slots *slots, int64_t handle) noexcept nogil:
    # The slot of a live handle, NIL for any other number.
    cdef int64_t slot = <int64_t> <uint32_t> handle
    if handle < 0 or slot >= slots.request_max:
        return NIL
    if slots.requests[slot].generation != <uint32_t> (handle >> 32) or slots.requests[slot].state == FREE:
        return NIL
    return <int32_t> slot
