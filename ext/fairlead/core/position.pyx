"""The place in line that a client is told.

Promise: how many turns of its pool it is until the request is served, if everybody who is eligible now stays so; never
more than wait in the pool. A first-come-first-served estimate would tell a light user, who is served next, to go away.
Under FIFO it is the right one: all that wait in the pool, for it is told to the one that came last.
"""

from fairlead.core.flows cimport flow_find, user_find
from fairlead.core.shares cimport READY, ROOT, FairQueue, Level, Share
from fairlead.core.slots cimport NIL, WAITING, Request
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef int64_t turn(int64_t k, int64_t all_waiting, int64_t all_weight, int64_t weight) noexcept nogil:
    """Which turn of all is the k-th of one who has weight / all_weight of them?"""
    # In two parts, so that no product can overflow.
    if all_weight // weight >= all_waiting:
        return all_waiting
    return min(all_waiting, k * (all_weight // weight) + (k * (all_weight % weight) + weight - 1) // weight)


cdef int64_t turn_of_pool(FairQueue *queue, int32_t index, int64_t k, int64_t newcomers) noexcept nogil:
    """Which turn of its pool is the k-th of a share? newcomers: requests that are not among the waiting yet."""
    cdef Share *share = &queue.shares[index]
    cdef Level *level
    cdef int32_t child
    while share.parent != ROOT:
        level = &queue.levels[share.parent]
        if level.strict:
            child = level.child
            while child != NIL:
                if queue.levels[child].rank < queue.levels[index].rank:
                    k += queue.shares[child].waiting
                child = queue.levels[child].sibling
        else:
            k = turn(k, queue.shares[share.parent].waiting + newcomers,
                     level.ready_weight + (0 if share.where == READY else share.weight), share.weight)
        index = share.parent
        share = &queue.shares[index]
    return k


cdef int64_t pool_waiting(FairQueue *queue, int32_t level) noexcept nogil:
    while queue.shares[level].parent != ROOT:
        level = queue.shares[level].parent
    return queue.shares[level].waiting


cdef int64_t queue_position(FairQueue *queue, int32_t slot) noexcept nogil:
    """Place in line: k turns of this user's, each of which lets everybody else have its weight's worth of turns; the
    same again for the group that it is in, up to its pool. 0: it does not wait."""
    cdef Request *requests = queue.slots.requests
    cdef Share *share
    cdef int64_t k = 1
    cdef int32_t before = slot
    if slot == NIL or requests[slot].state != WAITING:
        return 0
    share = &queue.shares[requests[slot].flow]
    if queue.fifo:
        return pool_waiting(queue, share.parent)
    if share.tail == slot:
        k = share.waiting
    else:
        while before != share.head:
            k += 1
            before = requests[before].previous
    return turn_of_pool(queue, requests[slot].flow, k, 0)


cdef int64_t queue_position_if(FairQueue *queue, int32_t level, uint64_t key, int32_t weight,
                               int64_t deadline_ns) noexcept nogil:
    """The place of a request that came now to a level, by a user of that weight."""
    cdef Request *requests = queue.slots.requests
    cdef int32_t user = user_find(queue, key)
    cdef int32_t flow = NIL if user == NIL else flow_find(queue, user, level)
    cdef int64_t k = 1
    cdef int64_t all_weight = queue.levels[level].ready_weight + weight
    cdef int32_t before
    if queue.fifo:
        return pool_waiting(queue, level) + 1
    if flow != NIL:
        if queue.shares[flow].where == READY:
            all_weight -= queue.shares[flow].weight
        k += queue.shares[flow].waiting
        before = queue.shares[flow].tail if queue.by_deadline else NIL
        while k > 1 and before != NIL and requests[before].deadline_ns > deadline_ns:
            k -= 1
            before = requests[before].previous
    return turn_of_pool(queue, level, turn(k, queue.shares[level].waiting + 1, all_weight, weight), 1)
