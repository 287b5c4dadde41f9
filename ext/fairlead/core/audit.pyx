"""What must hold between two calls: every invariant of the scheduler, by walking all of it.

Each function gives the first broken rule in words, or NULL. For tests and for /api/invariants; O(levels x shares +
pools x nodes + nodes x requests). Nothing here is shared with the code that it checks except the definitions of
"eligible" and of a key.
"""

from fairlead.core.crowd cimport crowd_fault
from fairlead.core.dispatch cimport UP_NS, Core, Counters, effective_deadline, level_of, pool_of
from fairlead.core.flows cimport user_find
from fairlead.core.heap cimport Entry, heap_at, heap_fault
from fairlead.core.nodes cimport nodes_fault
from fairlead.core.shares cimport (
    IDLE, NOWHERE, READY, ROOT, FairQueue, Level, Share, User, flow_is_eligible, level_is_eligible, limit_is_above,
    ready_key,
)
from fairlead.core.slots cimport EVICTED, NIL, RUNNING, WAITING, Request
from libc.stdint cimport int32_t, int64_t


cdef bint are_in_order(FairQueue *queue, Request *one, Request *next) noexcept nogil:
    if queue.by_deadline and one.deadline_ns != next.deadline_ns:
        return one.deadline_ns < next.deadline_ns
    return one.order < next.order


cdef const char *flow_fault(FairQueue *queue, int32_t index) noexcept nogil:
    cdef Share *share = &queue.shares[index]
    cdef Level *level = &queue.levels[share.parent]
    cdef Request *requests = queue.slots.requests
    cdef int32_t slot = share.head
    cdef int32_t previous = NIL
    cdef int32_t waiting = 0
    while slot != NIL and waiting <= share.waiting:
        if requests[slot].flow != index or requests[slot].state != WAITING:
            return b"a queue holds a request that is not its own"
        if previous != NIL and requests[slot].previous != previous:
            return b"a queue links back wrongly"
        if previous != NIL and not are_in_order(queue, &requests[previous], &requests[slot]):
            return b"a user's requests are not in order"
        previous = slot
        slot = requests[slot].next
        waiting += 1
    if waiting != share.waiting or previous != share.tail:
        return b"a queue's length or end is wrong"
    if (share.where == READY) != flow_is_eligible(queue, share):
        return b"a user is eligible and not ready, or the other way round"
    if (share.where == IDLE) != (share.waiting == 0 and share.running == 0):
        return b"a flow with nothing to do is not idle, or the other way round"
    if share.where == IDLE and share.start <= level.virtual_time:
        return b"an idle flow without debt was kept"
    return NULL


cdef const char *share_fault(FairQueue *queue, int32_t index) noexcept nogil:
    """Of any share but the root: is it in the heap that its state says, under the key that it has?"""
    cdef Share *share = &queue.shares[index]
    cdef Level *level = &queue.levels[share.parent]
    cdef Entry *entry
    if share.where == NOWHERE:
        if queue.position[index] != -1:
            return b"a share is in a heap and should not be"
        return NULL
    entry = heap_at(&level.ready if share.where == READY else &level.idle, queue.position[index])
    if entry.item != index or entry.tie != share.stamp:
        return b"a share is not where its position says"
    if entry.key != (ready_key(queue, index) if share.where == READY else share.start):
        return b"a share's key in its heap is not its virtual start"
    return NULL


cdef const char *level_fault(FairQueue *queue, int32_t index) noexcept nogil:
    cdef Level *level = &queue.levels[index]
    cdef int64_t waiting = 0, running = 0, weight = 0
    cdef int32_t i, ready = 0
    cdef const char *fault = heap_fault(&level.ready)
    if fault == NULL:
        fault = heap_fault(&level.idle)
    if fault != NULL:
        return fault
    for i in range(1, queue.share_max):
        if queue.shares[i].parent == index:
            waiting += queue.shares[i].waiting
            running += queue.shares[i].running
            if queue.shares[i].where == READY:
                ready += 1
                weight += queue.shares[i].weight
    if waiting != queue.shares[index].waiting or running != queue.shares[index].running:
        return b"a level's counts are not the sums over its children"
    if ready != level.ready.size or weight != level.ready_weight:
        return b"a level's eligible children or their weight are counted wrongly"
    if index > 0 and queue.shares[index].parent != ROOT and not level.open:
        return b"a group is closed"
    if index != ROOT and (queue.shares[index].where == READY) != level_is_eligible(queue, index):
        return b"a pool is eligible and not ready, or the other way round"
    return NULL


cdef const char *user_fault(FairQueue *queue, int32_t index) noexcept nogil:
    cdef User *user = &queue.users[index]
    cdef int32_t flow = user.flows
    cdef int32_t parent = NIL
    cdef int32_t waiting = 0, running = 0, slot
    cdef int64_t size_bytes = 0
    while flow != NIL:
        if queue.shares[flow].user != index or queue.shares[flow].parent <= parent:
            return b"a user's list of flows is broken"
        parent = queue.shares[flow].parent
        waiting += queue.shares[flow].waiting
        running += queue.shares[flow].running
        slot = queue.shares[flow].head
        while slot != NIL:  # ends: flow_fault has counted it
            size_bytes += queue.slots.requests[slot].size_bytes
            slot = queue.slots.requests[slot].next
        flow = queue.shares[flow].user_next
    if waiting != user.waiting or running != user.running or size_bytes != user.waiting_bytes:
        return b"a user's counts are not the sums over its pools"
    if user_find(queue, user.key) != index:
        return b"a user can't be found by its key"
    return NULL


cdef const char *limits_fault(FairQueue *queue) noexcept nogil:
    """What is wrong with the limits, or NULL. O(levels x their depth + limits)."""
    cdef int32_t limit, level, running, previous, limits = 0, listed = 0
    for limit in range(1, queue.limit_max + 1):
        if not queue.limits[limit].exists:
            continue
        limits += 1
        running = 0
        previous = ROOT
        level = queue.limits[limit].places
        while level != NIL:
            if level <= previous or queue.levels[level].limit != limit or queue.shares[level].parent == NIL:
                return b"a limit's list of places is broken"
            if limit_is_above(queue, limit, queue.shares[level].parent):
                return b"a place of a limit is below another one of it"
            listed += 1
            running += queue.shares[level].running
            previous = level
            level = queue.levels[level].limit_next
        if running != queue.limits[limit].running:
            return b"a limit's count is not the sum over its places"
    for level in range(1, queue.level_max):
        if queue.shares[level].parent != NIL and queue.levels[level].limit != 0:
            listed -= 1
    if limits != queue.limit_count or listed != 0:
        return b"limits or their places are counted wrongly"
    return NULL


cdef const char *queue_fault(FairQueue *queue) noexcept nogil:
    """What is wrong with the queue, or NULL. O(levels x shares)."""
    cdef const char *fault = NULL
    cdef int32_t i, flows = 0
    for i in range(1, queue.share_max):
        if queue.shares[i].parent == NIL:
            continue
        fault = share_fault(queue, i)
        if fault == NULL and i >= queue.level_max:
            flows += 1
            fault = flow_fault(queue, i)
            if fault == NULL:
                fault = user_fault(queue, queue.shares[i].user)
        if fault != NULL:
            return fault
    for i in range(queue.level_max):
        if i == ROOT or queue.shares[i].parent != NIL:
            fault = level_fault(queue, i)
            if fault != NULL:
                return fault
    if flows != queue.flow_count:
        return b"flows are counted wrongly"
    fault = limits_fault(queue)
    return fault if fault != NULL else crowd_fault(queue)


cdef const char *deadlines_fault(Core *core) noexcept nogil:
    cdef int32_t slot, waiting = 0, running = 0, evicted = 0
    cdef int64_t size_bytes = 0
    cdef Request *request
    cdef const char *fault = heap_fault(&core.deadlines)
    if fault != NULL:
        return fault
    for slot in range(core.slots.request_max):
        request = &core.slots.requests[slot]
        if (request.state == WAITING) != (core.deadline_position[slot] >= 0):
            return b"a waiting request has no deadline, or one that does not wait has"
        running += request.state == RUNNING
        evicted += request.state == EVICTED
        if request.state != WAITING:
            continue
        waiting += 1
        size_bytes += request.size_bytes
        if heap_at(&core.deadlines, core.deadline_position[slot]).key != effective_deadline(
                core, request, pool_of(core, request)):
            return b"a request's key in the deadline heap is not its effective deadline"
    if waiting != core.queue.shares[ROOT].waiting or running != core.queue.shares[ROOT].running:
        return b"the queue's counts are not the requests' states"
    if waiting + running + evicted != core.slots.used or waiting != core.deadlines.size:
        return b"slots in use, waiting and running do not add up"
    if size_bytes != core.queue.waiting_bytes:
        return b"waiting bytes are counted wrongly"
    return NULL


cdef const char *leases_fault(Core *core) noexcept nogil:
    cdef int32_t node, slot, leases, width, pool
    cdef Request *request
    for node in range(core.nodes.node_max):
        if not core.nodes.nodes[node].exists:
            continue
        leases = width = 0
        for slot in range(core.slots.request_max):
            request = &core.slots.requests[slot]
            if (request.state == RUNNING and request.node == node
                    and request.node_generation == core.nodes.nodes[node].generation):
                leases += 1
                width += request.width
        if leases != core.nodes.nodes[node].leases or width != core.nodes.nodes[node].running:
            return b"a node's leases are not the running requests on it"
    for pool in range(core.pool_max):
        if core.queue.shares[level_of(pool)].parent == NIL:
            continue
        if core.queue.levels[level_of(pool)].open != (core.nodes.open[pool].size > 0):
            return b"a pool is open without room, or the other way round"
        if (core.down_since[pool] == UP_NS) != (core.nodes.usable[pool] > 0):
            return b"a pool is down with a usable node, or the other way round"
    return NULL


cdef const char *ledger_fault(Core *core) noexcept nogil:
    cdef Counters *c = &core.counters
    if c.received != (
            c.refused_queue_full + c.refused_user_queue_full + c.refused_bytes_full + c.pushed_out + c.expired
            + c.no_node + c.cancelled + c.failed + c.completed + core.queue.shares[ROOT].waiting
            + core.queue.shares[ROOT].running):
        return b"the ledger does not balance: a request has two outcomes, or none"
    return NULL


cdef const char *core_fault(Core *core) noexcept nogil:
    """The first broken rule of the whole scheduler, or NULL."""
    cdef const char *fault = deadlines_fault(core)
    if fault == NULL:
        fault = queue_fault(&core.queue)
    if fault == NULL:
        fault = nodes_fault(&core.nodes)
    if fault == NULL:
        fault = leases_fault(core)
    if fault == NULL:
        fault = ledger_fault(core)
    return fault
