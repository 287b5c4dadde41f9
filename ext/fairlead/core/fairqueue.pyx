"""Who is next: start-time fair queueing with one counter per user, over a tree of shares.

Promise. Between two users that both have requests waiting over an interval, the service they get in proportion to
their weights differs by at most one request of each (and the error of the cost estimates of what runs), whatever the
nodes do. A user that was away comes back at the present: it has saved nothing and owes only what it had not paid.

Theory. Every share (a user in a pool, and a pool under the root) has a virtual start c: the service it was charged
so far, divided by its weight. The eligible share with the smallest c goes next. Its parent's virtual time V becomes
that c, and then the request's cost / weight is added to c *before* the next pick, or one user would take all slots
that are freed in one turn. The true cost corrects c when the request ends. Because order depends only on what was
charged in the past, nobody needs to know how long the next request will run; and because V is taken from the shares
themselves and not from a clock, it does not matter how fast the nodes are. (SFQ: Goyal, Vin, Cheng 1996; for a
server with several requests at once: Jin, Chase, Kaur 2004.)

What it does not promise. Who becomes eligible starts at V, and V moves only when a share with a later start is
dispatched. So newcomers who never cease go before the second request of everybody who has had a turn. A V that rose
with the work done would end that, but it would also take from a user who comes back the turn that the orders in
tests/core/test_orders.py give it. The number of users is the bound: identity must not be free.

The one rule that prevents both hoarding and starvation: when a share *becomes* eligible, c = max(c, V). It is
applied in ``enter`` (shares.pyx) and nowhere else. V never decreases except back to 0, together with every c, when
nothing waits or runs.

Time and weights are integers. c counts in 1/720720 of a cost unit, so cost / weight is exact for weights up to 16
and rounded down by less than a unit for others; the correction is floor(actual) - floor(charged), so what a user
has paid in the end depends on its requests only and not on the path; a change of its weight concerns what starts after
it. When V passes ``rebase_at`` it is subtracted
from everything. c stays within 2**61 of that zero: a user that owes more than 3 * 10**12 units at once owes no more.

The tree. A share below ``level_max`` has children, one from there on is a flow with a queue. Dispatch walks from
the root to a flow, always to the smallest (c, stamp), and charges every share on the way back, so each level is
fair among its own children. Pools are under the root, users under pools; a tier or a team is one more level between.
A pool is eligible while one of its users is and one of its nodes has room (``open``). A pool or group may belong to a
limit, which counts what runs in all its places: while it is full, none of them is eligible.

FIFO is the same tree with another key: the place in time of the oldest request below a share.

The parts: slots.pyx holds the requests, heap.pyx the order, shares.pyx the tree, flows.pyx the users; what happens
to a request is here.
"""

from fairlead.core.crowd cimport crowd_update
from fairlead.core.flows cimport flow_find, flow_obtain, flow_settle, forget_idle
from fairlead.core.heap cimport heap_remove, heap_shift_keys, heap_top, heap_update
from fairlead.core.memory cimport CHECK
from fairlead.core.shares cimport (
    IDLE, NOWHERE, READY, ROOT, START_MAX, FairQueue, Level, Share, User, charge, enter, flow_is_eligible, leave,
    level_is_eligible, limits_count, limits_refresh, ready_key, rekey, share_charge, user_refresh,
)
from fairlead.core.slots cimport NIL, RUNNING, WAITING, Request
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef enum:
    PROMOTE_EVERY = 4  # of four dispatches of a strict level, at most one goes to who has waited too long


cdef inline void count(FairQueue *queue, int32_t slot, int32_t waiting, int32_t running) noexcept nogil:
    """A request begins or ends to wait or to run: count it for its user, its flow and everything above that."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef int32_t index = request.flow
    cdef User *user = &queue.users[queue.shares[index].user]
    user.running += running
    if waiting != 0:
        if user.waiting == 0:
            queue.crowd.waiting_weight += user.weight
        user.waiting += waiting
        if user.waiting == 0:
            queue.crowd.waiting_weight -= user.weight
        user.waiting_bytes += waiting * request.size_bytes
        queue.waiting_bytes += waiting * request.size_bytes
        if queue.crowd.active:
            crowd_update(queue, queue.shares[index].user)
    if running != 0 and queue.limit_count > 0:
        limits_count(queue, queue.shares[index].parent, running)
    while True:
        queue.shares[index].waiting += waiting
        queue.shares[index].running += running
        if index == ROOT:
            break
        index = queue.shares[index].parent


cdef inline void link_after(FairQueue *queue, Share *share, int32_t previous, int32_t slot) noexcept nogil:
    cdef Request *requests = queue.slots.requests
    cdef int32_t following = share.head if previous == NIL else requests[previous].next
    requests[slot].previous = previous
    requests[slot].next = following
    if previous == NIL:
        share.head = slot
    else:
        requests[previous].next = slot
    if following == NIL:
        share.tail = slot
    else:
        requests[following].previous = slot


cdef inline bint goes_before(FairQueue *queue, int32_t one, int32_t other) noexcept nogil:
    """Within one flow: by deadline if that is wanted, and by place in time."""
    cdef Request *a = &queue.slots.requests[one]
    cdef Request *b = &queue.slots.requests[other]
    if queue.by_deadline and a.deadline_ns != b.deadline_ns:
        return a.deadline_ns < b.deadline_ns
    return a.order < b.order


cdef inline void link_in_order(FairQueue *queue, Share *share, int32_t slot) noexcept nogil:
    """From the end: most go there, and no further than the flow's length."""
    cdef int32_t previous = share.tail
    while previous != NIL and goes_before(queue, slot, previous):
        previous = NIL if previous == share.head else queue.slots.requests[previous].previous
    link_after(queue, share, previous, slot)


cdef inline void unlink(FairQueue *queue, Share *share, int32_t slot) noexcept nogil:
    # A head's ``previous`` is not kept: the next in line is usually cold, and its turn is far away.
    cdef Request *requests = queue.slots.requests
    cdef Request *request = &requests[slot]
    if share.head == slot:
        share.head = request.next
        if request.next == NIL:
            share.tail = NIL
        return
    requests[request.previous].next = request.next
    if request.next == NIL:
        share.tail = request.previous
    else:
        requests[request.next].previous = request.previous


cdef inline void arrive(FairQueue *queue, int32_t flow) noexcept nogil:
    """A request has joined the queue of a flow, maybe at its head."""
    cdef Share *share = &queue.shares[flow]
    if share.where == IDLE:
        heap_remove(&queue.levels[share.parent].idle, flow)
        share.where = NOWHERE
    if share.where == READY:
        if queue.fifo:
            rekey(queue, flow)
    elif flow_is_eligible(queue, share):
        enter(queue, flow)


cdef void queue_append(FairQueue *queue, int32_t flow, int32_t slot) noexcept nogil:
    """Put a request at the end of its flow's queue. It must be filled in but for order, flow, links and state."""
    cdef Share *share = &queue.shares[flow]
    cdef Request *request = &queue.slots.requests[slot]
    queue.sequence += 1
    request.order = queue.sequence
    request.flow = flow
    request.state = WAITING
    if queue.by_deadline:
        link_in_order(queue, share, slot)
    else:
        # Not link_after: the tail is often cold, and writing to it need not wait for it as reading would.
        request.previous = share.tail
        request.next = NIL
        if share.tail == NIL:
            share.head = slot
        else:
            queue.slots.requests[share.tail].next = slot
        share.tail = slot
    count(queue, slot, 1, 0)
    arrive(queue, flow)


cdef void take_out(FairQueue *queue, int32_t slot) noexcept nogil:
    """Take a waiting request out of its flow's queue."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef Share *share = &queue.shares[request.flow]
    cdef bint was_head = share.head == slot
    unlink(queue, share, slot)
    count(queue, slot, -1, 0)
    if share.where != READY:
        return
    if share.waiting == 0:
        leave(queue, request.flow)
    elif was_head and queue.fifo:
        rekey(queue, request.flow)


cdef void queue_remove(FairQueue *queue, int32_t slot) noexcept nogil:
    """A waiting request ends; it is charged nothing."""
    cdef int32_t flow = queue.slots.requests[slot].flow
    take_out(queue, slot)
    flow_settle(queue, flow)


cdef int32_t promoted(FairQueue *queue, int32_t index, int64_t now_ns) noexcept nogil:
    """Of a strict level: the child whose next request has waited too long, the oldest of them; NIL: none, or it is
    not time yet for another one."""
    cdef Level *level = &queue.levels[index]
    cdef int32_t child = level.child
    cdef int32_t oldest = NIL, best = NIL
    cdef int32_t slot
    cdef Request *requests = queue.slots.requests
    if level.unpromoted < PROMOTE_EVERY - 1:
        return NIL
    while child != NIL:
        if queue.shares[child].where == READY:
            slot = next_below(queue, child, now_ns)
            if now_ns - requests[slot].queued_ns >= level.promote_ns and (
                    oldest == NIL or requests[slot].order < requests[oldest].order):
                oldest = slot
                best = child
        child = queue.levels[child].sibling
    return best


cdef int32_t next_below(FairQueue *queue, int32_t index, int64_t now_ns) noexcept nogil:
    cdef int32_t child
    while index < queue.level_max:  # ends: the tree has at most level_max levels
        child = promoted(queue, index, now_ns) if queue.levels[index].strict else NIL
        index = child if child != NIL else heap_top(&queue.levels[index].ready).item
    return queue.shares[index].head


cdef int32_t queue_next(FairQueue *queue, int64_t now_ns) noexcept nogil:
    """The request that goes next, or NIL."""
    cdef int32_t index = ROOT
    if queue.levels[ROOT].ready.size == 0:
        return NIL
    if not queue.plain:
        return next_below(queue, ROOT, now_ns)
    while index < queue.level_max:
        index = heap_top(&queue.levels[index].ready).item
    return queue.shares[index].head


cdef void rebase(FairQueue *queue, int32_t parent) noexcept nogil:
    """Move the zero of a level's virtual time to now. All differences, so all orders, stay."""
    cdef Level *level = &queue.levels[parent]
    cdef int64_t zero = level.virtual_time
    cdef int32_t i
    for i in range(1, queue.share_max):
        if queue.shares[i].parent == parent:
            queue.shares[i].start -= zero
            # What is not eligible may be passed by many zeros; it is lifted to the present when it comes back.
            if queue.shares[i].where == NOWHERE and queue.shares[i].start < -START_MAX:
                queue.shares[i].start = -START_MAX
    if not queue.fifo and not level.strict:
        heap_shift_keys(&level.ready, -zero)
    heap_shift_keys(&level.idle, -zero)
    level.virtual_time = 0
    queue.rebases += 1


cdef void queue_dispatch(FairQueue *queue, int32_t slot) noexcept nogil:
    """The request that queue_next named starts: charge it on every level, and see who is eligible then."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef int32_t flow = request.flow
    cdef int32_t index = flow
    cdef Share *share = &queue.shares[flow]
    cdef User *user = &queue.users[share.user]
    cdef Level *level
    cdef bint still
    CHECK(share.where == READY and share.head == slot and request.state == WAITING)
    unlink(queue, share, slot)
    request.state = RUNNING
    request.previous = share.weight  # the user's weight may change before the charge is corrected
    count(queue, slot, -1, 1)
    still = flow_is_eligible(queue, share)
    while index != ROOT:
        share = &queue.shares[index]
        level = &queue.levels[share.parent]
        if level.strict:
            level.unpromoted = 0 if heap_top(&level.ready).item != index else min(level.unpromoted + 1, PROMOTE_EVERY)
        if share.start > level.virtual_time:
            level.virtual_time = share.start
        share_charge(share, charge(request.cost, share.weight))
        queue.sequence += 1
        share.stamp = queue.sequence
        if still:
            heap_update(&level.ready, ready_key(queue, index), share.stamp, index)
        else:
            heap_remove(&level.ready, index)
            share.where = NOWHERE
            level.ready_weight -= share.weight
        while level.idle.size > 0 and heap_top(&level.idle).key <= level.virtual_time:
            forget_idle(queue, share.parent)
        if level.virtual_time > queue.rebase_at:
            rebase(queue, share.parent)
        still = level_is_eligible(queue, share.parent)
        index = share.parent
    if user.running_max != 0 and user.running >= user.running_max:
        user_refresh(queue, queue.shares[flow].user)
    if queue.limit_count > 0:
        limits_refresh(queue, queue.shares[flow].parent)


cdef void correct(FairQueue *queue, int32_t slot, int64_t cost) noexcept nogil:
    """Make a running request's charge what it would have been for that cost, on every level."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef int32_t index = request.flow
    cdef int32_t weight = request.previous
    cdef Share *share
    if cost == request.cost:
        return
    while index != ROOT:
        share = &queue.shares[index]
        share_charge(share, charge(cost, weight) - charge(request.cost, weight))
        if share.where == READY and not queue.fifo:
            heap_update(&queue.levels[share.parent].ready, ready_key(queue, index), share.stamp, index)
        index = share.parent
        weight = queue.shares[index].weight


cdef void queue_finish(FairQueue *queue, int32_t slot, int64_t cost) noexcept nogil:
    """A running request ends. The caller then gives its slots back and calls flow_settle."""
    cdef int32_t flow = queue.slots.requests[slot].flow
    cdef int32_t user = queue.shares[flow].user
    correct(queue, slot, cost)
    count(queue, slot, 0, -1)
    if queue.limit_count > 0:
        limits_refresh(queue, queue.shares[flow].parent)
    if queue.users[user].running_max != 0:
        user_refresh(queue, user)


cdef void queue_requeue(FairQueue *queue, int32_t slot) noexcept nogil:
    """A running request waits again, at its place in time, uncharged. The caller then gives its slots back and calls
    queue_prefer."""
    cdef Request *requests = queue.slots.requests
    cdef int32_t flow = requests[slot].flow
    cdef Share *share = &queue.shares[flow]
    cdef int32_t previous = NIL
    cdef int32_t following = share.head
    correct(queue, slot, 0)
    # By place in time, only requests that came back as well can be older: at most as many as were running.
    while following != NIL and goes_before(queue, following, slot):
        previous = following
        following = requests[following].next
    requests[slot].state = WAITING
    link_after(queue, share, previous, slot)
    count(queue, slot, 1, -1)
    if queue.limit_count > 0:
        limits_refresh(queue, share.parent)
    user_refresh(queue, share.user)
    if queue.fifo:
        rekey(queue, flow)


cdef void queue_prefer(FairQueue *queue, int32_t slot) noexcept nogil:
    """Among equals, a request that came back goes first: each share above it competes with its place in time.

    Places in time and stamps are drawn from one sequence, so a stamp stays unique.
    """
    cdef uint64_t order = queue.slots.requests[slot].order
    cdef int32_t index = queue.slots.requests[slot].flow
    cdef Share *share
    while index != ROOT:
        share = &queue.shares[index]
        if share.stamp > order:
            share.stamp = order
            if share.where == READY:
                heap_update(&queue.levels[share.parent].ready, ready_key(queue, index), order, index)
        index = share.parent


cdef void queue_move(FairQueue *queue, int32_t slot, int32_t parent) noexcept nogil:
    """A waiting request goes to the same user's flow in another pool, at its place in time."""
    cdef Request *requests = queue.slots.requests
    cdef Request *request = &requests[slot]
    cdef int32_t old = request.flow
    cdef int64_t debt = queue.shares[old].start - queue.levels[queue.shares[old].parent].virtual_time
    cdef int32_t weight = queue.shares[old].weight
    cdef int32_t flow
    cdef Share *share
    cdef bint is_new = flow_find(queue, queue.shares[old].user, parent) == NIL
    # The new flow first: the user must not be forgotten in between.
    flow = flow_obtain(queue, queue.shares[old].user, queue.users[queue.shares[old].user].key, parent)
    share = &queue.shares[flow]
    if is_new and debt > 0:
        share.start += debt
    if share.waiting == 0 and share.running == 0:
        share.weight = weight  # nobody else has a say in it
    take_out(queue, slot)
    request.flow = flow
    link_in_order(queue, share, slot)
    count(queue, slot, 1, 0)
    arrive(queue, flow)
    flow_settle(queue, old)
