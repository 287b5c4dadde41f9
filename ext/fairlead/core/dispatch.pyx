"""The scheduler without Python: slots, fair queue, deadlines and nodes put together.

``Core`` is one struct with everything in it, and ``core_*`` are functions on it without a Python object in sight
(``noexcept nogil``: the compiler proves it). Each decides and changes nothing outside; ``core_drain`` writes
decisions into an array of fixed size. The order inside an entry is part of the contract, because it decides ties:

  dispatch   node chosen, charge and queue, user and places parked at their limits, node occupied, pools without room
             closed
  finish     charge corrected, places under its limits and then its user let in again, node freed, pools with room
             opened, idle flow settled

Every waiting request is in the deadline heap, under its *effective* deadline: its own, or the end of no_node_wait
while its pool has no usable node. When a pool loses its last usable node or gets its first, the keys of what waits
in it change once (O(waiting x log)); nothing is swept.

A pool's level in the tree is its index + 1; the levels from pools_max + 1 on are groups (tiers, teams) below them.
"""

from fairlead.core.crowd cimport crowd_begin, crowd_is_below_share, crowd_victim
from fairlead.core.fairqueue cimport (
    queue_append, queue_dispatch, queue_finish, queue_move, queue_next, queue_prefer, queue_remove, queue_requeue,
)
from fairlead.core.flows cimport flow_configure, flow_find, flow_obtain, flow_settle, user_find
from fairlead.core.heap cimport (
    Entry, heap_expect, heap_init, heap_push, heap_remove, heap_top, heap_update, page_table_length, pages_free,
    pages_init,
)
from fairlead.core.memory cimport PREFETCH, core_calloc, core_free
from fairlead.core.nodes cimport (
    Node, node_choose, node_handle, node_lease, node_release, nodes_free, nodes_init,
)
from fairlead.core.shares cimport ROOT, level_set_open, limit_is_full, queue_free, queue_init
from fairlead.core.slots cimport (
    EVICTED, NIL, RUNNING, WAITING, Request, slots_find, slots_free, slots_give, slots_handle, slots_init,
    slots_take,
)
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t
from libc.string cimport memset


cdef bint core_init(Core *core, int64_t requests, int64_t flows, int32_t nodes_max, int32_t limits_max, bint fifo,
                    int32_t routing, double gpu_weight, double queue_weight, int64_t rebase_at, int64_t seed,
                    bint by_deadline) noexcept:
    """Allocate for the limits that are in the struct already. False: no memory; core_discard takes what there is."""
    cdef int32_t table_length = page_table_length(requests)
    core.decisions = <Decision *> core_calloc(core.decision_max, sizeof(Decision))
    core.evicted = core.evicted_last = NIL
    core.down_since = <int64_t *> core_calloc(core.pool_max, sizeof(int64_t))
    core.deadline_position = <int32_t *> core_calloc(requests, sizeof(int32_t))
    core.deadline_table = <Entry **> core_calloc(table_length, sizeof(Entry *))
    if (core.decisions == NULL or core.down_since == NULL or core.deadline_position == NULL
            or core.deadline_table == NULL
            or not pages_init(&core.deadline_pages, requests, 1)
            or not slots_init(&core.slots, <int32_t> requests)
            or not nodes_init(&core.nodes, nodes_max, core.pool_max, routing, gpu_weight, queue_weight, seed)
            or not queue_init(&core.queue, &core.slots, flows, core.pool_max + core.group_max + 1, limits_max, fifo,
                              rebase_at, core.push_out, by_deadline)):
        return False
    memset(core.deadline_position, 0xff, requests * sizeof(int32_t))
    heap_init(&core.deadlines, &core.deadline_pages, core.deadline_table, table_length, core.deadline_position)
    return True


cdef void core_discard(Core *core) noexcept:
    core_free(core.decisions)
    core_free(core.down_since)
    core_free(core.deadline_position)
    core_free(core.deadline_table)
    pages_free(&core.deadline_pages)
    slots_free(&core.slots)
    nodes_free(&core.nodes)
    queue_free(&core.queue)


cdef void pool_changed(Core *core, int32_t pool) noexcept nogil:
    """A node of the pool has changed: does the pool have room, and does it have a usable node at all?"""
    cdef bint is_down = core.nodes.usable[pool] == 0
    cdef int32_t slot
    cdef Request *request
    level_set_open(&core.queue, level_of(pool), core.nodes.open[pool].size > 0)
    if is_down == (core.down_since[pool] != UP_NS):
        return
    core.down_since[pool] = core.now_ns if is_down else UP_NS
    if core.queue.shares[level_of(pool)].waiting == 0:
        return
    for slot in range(core.slots.request_max):
        request = &core.slots.requests[slot]
        if request.state == WAITING and pool_of(core, request) == pool:
            heap_update(&core.deadlines, effective_deadline(core, request, pool), request.order, slot)


cdef void node_changed(Core *core, int32_t node) noexcept nogil:
    cdef int32_t k
    for k in range(core.nodes.nodes[node].pool_count):
        pool_changed(core, core.nodes.pools[<int64_t> node * core.nodes.pool_max + k])


cdef bint starts_at_once(Core *core, Submission *submission, int32_t user, int32_t level) noexcept nogil:
    """Would this request be dispatched by the next drain? Then no limit on waiting concerns it."""
    cdef int32_t flow
    cdef int32_t pool = level_of(core.queue.levels[level].pool)
    cdef int32_t above = level
    if not core.queue.levels[pool].open or core.queue.levels[pool].ready.size > 0:
        return False
    while above != ROOT:
        if limit_is_full(&core.queue, core.queue.levels[above].limit):
            return False
        above = core.queue.shares[above].parent
    if core.queue.shares[ROOT].running >= core.running_max:
        return False
    if user == NIL:
        return True
    if submission.running_max != 0 and core.queue.users[user].running >= submission.running_max:
        return False
    flow = flow_find(&core.queue, user, level)
    return flow == NIL or core.queue.shares[flow].waiting == 0


cdef void evict(Core *core, int32_t slot) noexcept nogil:
    """A waiting request has to give way. Its slot is held until drain has said so."""
    cdef Request *request = &core.slots.requests[slot]
    queue_remove(&core.queue, slot)
    heap_remove(&core.deadlines, slot)
    request.state = EVICTED
    request.next = NIL
    request.previous = core.evicted_last
    if core.evicted == NIL:
        core.evicted = slot
    else:
        core.slots.requests[core.evicted_last].next = slot
    core.evicted_last = slot
    core.counters.pushed_out += 1


cdef void forget_evicted(Core *core, int32_t slot) noexcept nogil:
    cdef Request *request = &core.slots.requests[slot]
    if request.previous == NIL:
        core.evicted = request.next
    else:
        core.slots.requests[request.previous].next = request.next
    if request.next == NIL:
        core.evicted_last = request.previous
    else:
        core.slots.requests[request.next].previous = request.previous
    slots_give(&core.slots, slot)


cdef bint make_way(Core *core, Submission *submission, int32_t user, bint queue_full,
                   bint bytes_full) noexcept nogil:
    """Push out as many as must go for this newcomer, or nobody."""
    if not core.push_out or submission.waiting_max < 0 or submission.size_bytes > core.waiting_bytes_max:
        return False
    if queue_full and not crowd_is_below_share(&core.queue, user, submission.weight, submission.size_bytes,
                                               core.waiting_max, core.waiting_bytes_max, False):
        return False
    if bytes_full and not crowd_is_below_share(&core.queue, user, submission.weight, submission.size_bytes,
                                               core.waiting_max, core.waiting_bytes_max, True):
        return False
    crowd_begin(&core.queue)
    # Both loops end: each turn takes one waiting request away.
    while core.queue.shares[ROOT].waiting >= core.waiting_max and core.queue.crowd.active:
        evict(core, crowd_victim(&core.queue, False))
    while core.queue.waiting_bytes + submission.size_bytes > core.waiting_bytes_max and core.queue.crowd.active:
        evict(core, crowd_victim(&core.queue, True))
    return True


cdef int64_t refuse(Core *core, Submission *submission, int32_t user, int32_t level) noexcept nogil:
    """The reason to refuse a request, or 0."""
    cdef int32_t user_waiting = 0 if user == NIL else core.queue.users[user].waiting
    cdef bint user_full = submission.waiting_max > 0 and user_waiting >= submission.waiting_max
    cdef bint queue_full = core.queue.shares[ROOT].waiting >= core.waiting_max
    cdef bint bytes_full = core.queue.waiting_bytes + submission.size_bytes > core.waiting_bytes_max
    cdef bint no_slot = core.slots.free_head == NIL  # requests that came back from nodes may wait beyond the limit
    if not no_slot:
        if not (user_full or queue_full or bytes_full) or starts_at_once(core, submission, user, level):
            return 0
        if not user_full and make_way(core, submission, user, queue_full, bytes_full):
            return 0
    if user_full:
        core.counters.refused_user_queue_full += 1
        return REFUSED_USER_QUEUE_FULL
    if queue_full or no_slot:
        core.counters.refused_queue_full += 1
        return REFUSED_QUEUE_FULL
    core.counters.refused_bytes_full += 1
    return REFUSED_BYTES_FULL


cdef int64_t core_submit(Core *core, Submission *submission) noexcept nogil:
    cdef int32_t level = level_of(submission.place)
    cdef int32_t user = user_find(&core.queue, submission.user)
    cdef int64_t reason
    cdef int32_t slot, flow
    cdef Request *request
    core.counters.received += 1
    reason = refuse(core, submission, user, level)
    if reason != 0:
        return reason
    if core.evicted != NIL:
        user = user_find(&core.queue, submission.user)  # it may have owned what gave way, and be forgotten
    slot = slots_take(&core.slots)
    request = &core.slots.requests[slot]
    request.deadline_ns = submission.deadline_ns
    request.queued_ns = core.now_ns
    request.cost = submission.cost
    request.size_bytes = submission.size_bytes
    request.width = <int16_t> submission.width
    request.tried[0] = request.tried[1] = NIL
    request.attempts = 0
    request.node = NIL
    flow = flow_obtain(&core.queue, user, submission.user, level)
    flow_configure(&core.queue, flow, submission.weight, submission.running_max)
    queue_append(&core.queue, flow, slot)
    heap_push(&core.deadlines, effective_deadline(core, request, pool_of(core, request)), request.order, slot)
    return slots_handle(&core.slots, slot)


cdef inline void decide(Core *core, int32_t kind, int32_t slot, int64_t node) noexcept nogil:
    cdef Decision *decision = &core.decisions[core.decision_count]
    decision.kind = kind
    decision.handle = slots_handle(&core.slots, slot)
    decision.node = node
    core.decision_count += 1


cdef inline void take_off(Core *core, int32_t slot) noexcept nogil:
    """A waiting request ends."""
    cdef Request *request = &core.slots.requests[slot]
    PREFETCH(&core.queue.shares[request.flow])
    PREFETCH(&core.slots.requests[request.previous])
    PREFETCH(&core.slots.requests[request.next])
    heap_expect(&core.deadlines, slot)
    queue_remove(&core.queue, slot)
    heap_remove(&core.deadlines, slot)
    slots_give(&core.slots, slot)


cdef void expire(Core *core, int32_t slot) noexcept nogil:
    if core.slots.requests[slot].deadline_ns <= core.now_ns:
        core.counters.expired += 1
        decide(core, KIND_EXPIRED, slot, 0)
    else:
        core.counters.no_node += 1
        decide(core, KIND_NO_NODE, slot, 0)
    take_off(core, slot)


cdef inline void expect(Core *core, int32_t level) noexcept nogil:
    """Have the next request of a pool at hand for its turn: in a long queue it left the caches long ago."""
    cdef int32_t slot
    if core.queue.levels[level].ready.size > 0:
        slot = core.queue.shares[heap_top(&core.queue.levels[level].ready).item].head
        PREFETCH(&core.slots.requests[slot])
        PREFETCH(&core.deadline_position[slot])


cdef void dispatch(Core *core, int32_t slot) noexcept nogil:
    cdef Request *request = &core.slots.requests[slot]
    cdef int32_t level = core.queue.shares[request.flow].parent
    cdef int32_t node = node_choose(&core.nodes, pool_of(core, request), request.tried[0], request.tried[1])
    heap_remove(&core.deadlines, slot)
    queue_dispatch(&core.queue, slot)
    request.node = node
    request.node_generation = core.nodes.nodes[node].generation
    node_lease(&core.nodes, node, request.width)
    node_changed(core, node)
    core.counters.dispatched += 1
    decide(core, KIND_DISPATCHED, slot, node_handle(&core.nodes, node))
    expect(core, level)


cdef int32_t core_drain(Core *core) noexcept nogil:
    """Fill the decisions; as many as decision_max means that there may be more."""
    cdef int32_t slot
    core.decision_count = 0
    while core.evicted != NIL:
        if core.decision_count == core.decision_max:
            return core.decision_count
        decide(core, KIND_PUSHED_OUT, core.evicted, 0)
        forget_evicted(core, core.evicted)
    while core.deadlines.size > 0 and heap_top(&core.deadlines).key <= core.now_ns:
        if core.decision_count == core.decision_max:
            return core.decision_count  # nothing may be dispatched while something is due
        expire(core, heap_top(&core.deadlines).item)
    while core.decision_count < core.decision_max and core.queue.shares[ROOT].running < core.running_max:
        slot = queue_next(&core.queue, core.now_ns)
        if slot == NIL:
            break
        dispatch(core, slot)
    return core.decision_count


cdef void give_back(Core *core, Request *request) noexcept nogil:
    """A lease ends: free its slots, unless the node it was made on is gone."""
    cdef Node *node = &core.nodes.nodes[request.node]
    if node.exists and node.generation == request.node_generation:
        node_release(&core.nodes, request.node, request.width)
        node_changed(core, request.node)


cdef bint core_finish(Core *core, int64_t handle, int32_t outcome, int32_t cost) noexcept nogil:
    cdef int32_t slot = slots_find(&core.slots, handle)
    cdef Request *request
    if slot == NIL or core.slots.requests[slot].state != RUNNING:
        return False
    request = &core.slots.requests[slot]
    core.counters.completed += outcome == ENDED_COMPLETED
    core.counters.cancelled += outcome == ENDED_CANCELLED
    core.counters.failed += outcome == ENDED_FAILED
    queue_finish(&core.queue, slot, cost)
    give_back(core, request)
    flow_settle(&core.queue, request.flow)
    slots_give(&core.slots, slot)
    return True


cdef void core_forget_node(Core *core, int32_t node) noexcept nogil:
    """A node is being removed: whoever gets its index next is not to be avoided for its sake."""
    cdef int32_t slot, k
    for slot in range(core.slots.request_max):
        for k in range(2):
            if core.slots.requests[slot].tried[k] == node:
                core.slots.requests[slot].tried[k] = NIL


cdef bint core_cancel(Core *core, int64_t handle) noexcept nogil:
    cdef int32_t slot
    PREFETCH(&core.deadline_position[<uint32_t> handle])  # while the request itself is being loaded
    slot = slots_find(&core.slots, handle)
    if slot != NIL and core.slots.requests[slot].state == EVICTED:
        forget_evicted(core, slot)  # nobody needs to be told any more; it counts as pushed out
        return True
    if slot == NIL or core.slots.requests[slot].state != WAITING:
        return False
    core.counters.cancelled += 1
    core.counters.cancelled_waiting += 1
    take_off(core, slot)
    return True


cdef bint core_requeue(Core *core, int64_t handle) noexcept nogil:
    cdef int32_t slot = slots_find(&core.slots, handle)
    cdef Request *request
    cdef Node *node
    if slot == NIL or core.slots.requests[slot].state != RUNNING:
        return False
    request = &core.slots.requests[slot]
    request.tried[1] = request.tried[0]
    node = &core.nodes.nodes[request.node]
    request.tried[0] = NIL
    if node.exists and node.generation == request.node_generation:
        request.tried[0] = <int16_t> request.node
    if request.attempts < 255:
        request.attempts += 1
    queue_requeue(&core.queue, slot)
    give_back(core, request)
    queue_prefer(&core.queue, slot)
    request.node = NIL
    request.queued_ns = core.now_ns
    heap_push(&core.deadlines, effective_deadline(core, request, pool_of(core, request)), request.order, slot)
    core.counters.requeued += 1
    return True


cdef bint core_move(Core *core, int64_t handle, int32_t place) noexcept nogil:
    cdef int32_t slot = slots_find(&core.slots, handle)
    cdef Request *request
    if slot == NIL or core.slots.requests[slot].state != WAITING:
        return False
    request = &core.slots.requests[slot]
    if core.queue.shares[request.flow].parent != level_of(place):
        queue_move(&core.queue, slot, level_of(place))
        request.queued_ns = core.now_ns
        heap_update(&core.deadlines, effective_deadline(core, request, pool_of(core, request)), request.order, slot)
    return True
