"""The scheduler's Python face: it checks what a caller gave, translates, and holds the memory. Meaning: scheduler.pyi.

How requests are chosen is in fairqueue.pyx (who), nodes.pyx (where) and dispatch.pyx (when).
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from fairlead.core.audit cimport core_fault
from fairlead.core.dispatch cimport (
    ENDED_CANCELLED, ENDED_COMPLETED, ENDED_FAILED, KIND_DISPATCHED, KIND_EXPIRED, KIND_NO_NODE, KIND_PUSHED_OUT,
    REFUSED_BYTES_FULL, REFUSED_QUEUE_FULL, REFUSED_USER_QUEUE_FULL, Core, Decision, Submission, core_cancel,
    core_discard, core_drain, core_finish, core_forget_node, core_init, core_move, core_requeue, core_submit, level_of,
    node_changed, pool_changed,
)
from fairlead.core.flows cimport flow_find, user_find
from fairlead.core.heap cimport heap_top
from fairlead.core.nodes cimport (
    DOWN as NODE_DOWN, DRAINING as NODE_DRAINING, UP as NODE_UP, node_add, node_find, node_handle, node_join_pool,
    node_leave_pools, node_refresh, node_remove, node_set_state,
)
from fairlead.core.numbers cimport (
    counter_numbers, flow_numbers, group_numbers, limit_numbers, node_numbers, pool_numbers,
)
from fairlead.core.position cimport queue_position, queue_position_if
from fairlead.core.shares cimport (
    ROOT, VIRTUAL_UNIT as UNIT, Share, level_add, level_free, level_remove, level_set_strict, level_set_weight,
    limit_add, limit_is_above, limit_remove, limit_set,
)
from fairlead.core.slots cimport NIL, slots_find
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t

NEVER, VIRTUAL_UNIT = INT64_MAX, UNIT
WEIGHT_MAX = 1 << 20
COST_MAX = (1 << 31) - 1
WIDTH_MAX = (1 << 15) - 1
QUEUE_FULL, USER_QUEUE_FULL, BYTES_FULL = REFUSED_QUEUE_FULL, REFUSED_USER_QUEUE_FULL, REFUSED_BYTES_FULL
DISPATCHED, EXPIRED, NO_NODE, PUSHED_OUT = KIND_DISPATCHED, KIND_EXPIRED, KIND_NO_NODE, KIND_PUSHED_OUT
COMPLETED, CANCELLED, FAILED = ENDED_COMPLETED, ENDED_CANCELLED, ENDED_FAILED
DOWN, UP, DRAINING = NODE_DOWN, NODE_UP, NODE_DRAINING
FAIR, FIFO = 0, 1
ARRIVAL, DEADLINE = 0, 1
REJECT, PUSH_OUT = 0, 1
NEVER_WAIT = -1
SCORE, SCORE_RAW, LEAST_LOADED, P2C = 0, 1, 2, 3


cdef int64_t limited(str name, object value, int64_t low, int64_t high) except? -1:
    """An int in low..high, or an exception that names it."""
    cdef int64_t number
    try:
        number = value
    except OverflowError:
        raise ValueError(f"{name} is {value}: choose {low}..{high}") from None
    if number < low or number > high:
        raise ValueError(f"{name} is {number}: choose {low}..{high}")
    return number


@cython.final
cdef class Scheduler:
    """See scheduler.pyi."""

    def __cinit__(self, *, waiting_max, running_max, waiting_bytes_max=INT64_MAX, flows_max=0, nodes_max=256,
                  pools_max=64, groups_max=0, limits_max=0, decisions_max=256, order=FAIR, within_user=ARRIVAL,
                  overflow=REJECT, routing=SCORE, double gpu_weight=0.3, double queue_weight=0.7,
                  no_node_wait_ns=INT64_MAX, rebase_at=1 << 60, seed=1):
        cdef Core *core = &self.core
        cdef int64_t requests, flows
        core.waiting_max = <int32_t> limited("waiting_max", waiting_max, 0, 1 << 24)
        core.running_max = <int32_t> limited("running_max", running_max, 1, 1 << 24)
        core.waiting_bytes_max = limited("waiting_bytes_max", waiting_bytes_max, 0, INT64_MAX)
        core.no_node_wait_ns = limited("no_node_wait_ns", no_node_wait_ns, 0, INT64_MAX)
        core.decision_max = <int32_t> limited("decisions_max", decisions_max, 1, 1 << 20)
        core.pool_max = <int32_t> limited("pools_max", pools_max, 1, 1 << 12)
        core.group_max = <int32_t> limited("groups_max", groups_max, 0, 1 << 16)
        limited("limits_max", limits_max, 0, 1 << 16)
        limited("within_user", within_user, ARRIVAL, DEADLINE)
        core.push_out = limited("overflow", overflow, REJECT, PUSH_OUT) == PUSH_OUT
        # One more: whoever gives way holds its slot until drain has said so, and the newcomer has its own by then.
        requests = <int64_t> core.waiting_max + core.running_max + core.push_out
        # More flows than requests: then a full table always has an idle one to forget.
        flows = limited("flows_max", flows_max, 0, 1 << 26) or requests + 4096
        limited("flows_max", flows, requests + 1, 1 << 26)
        limited("nodes_max", nodes_max, 1, 1 << 14)
        limited("order", order, FAIR, FIFO)
        limited("routing", routing, SCORE, P2C)
        limited("rebase_at", rebase_at, 1, 1 << 60)
        limited("seed", seed, 0, INT64_MAX)
        if not 0.0 <= gpu_weight <= 1e6 or not 0.0 <= queue_weight <= 1e6:
            raise ValueError(f"gpu_weight is {gpu_weight}, queue_weight is {queue_weight}: choose 0..1e6")
        if not core_init(core, requests, flows, nodes_max, limits_max, order == FIFO, routing, gpu_weight, queue_weight,
                         rebase_at, seed, within_user == DEADLINE):
            raise MemoryError(f"no memory for a scheduler of {requests} requests and {flows} flows")
        self.owner = PyThread_get_thread_ident()

    def __dealloc__(self):
        core_discard(&self.core)  # every pointer is NULL or owned, however far __cinit__ came

    cdef int enter(self, int64_t now_ns) except -1:
        """One thread, and time does not go back."""
        if PyThread_get_thread_ident() != self.owner:
            raise RuntimeError("the scheduler belongs to the thread that made it: one loop, one scheduler")
        if now_ns < self.core.now_ns:
            raise ValueError(f"now_ns is {now_ns}, but was {self.core.now_ns} before: time does not go back")
        self.core.now_ns = now_ns
        return 0

    cdef int require(self, str kind, int64_t number, int64_t first, int64_t count) except -1:
        if number < first or number >= first + count or (
                self.core.queue.shares[level_of(<int32_t> number)].parent == NIL):
            raise ValueError(f"{kind} is {number}: there is no such {kind}")
        return 0

    cdef int require_pool(self, int64_t pool) except -1:
        return self.require("pool", pool, 0, self.core.pool_max)

    cdef int require_group(self, int64_t group) except -1:
        return self.require("group", group, self.core.pool_max, self.core.group_max)

    cdef int require_level(self, int64_t place) except -1:
        return self.require_pool(place) if place < self.core.pool_max else self.require_group(place)

    cdef int require_place(self, int64_t place) except -1:
        """A pool or group that may have requests of its own."""
        self.require_level(place)
        if self.core.queue.levels[level_of(<int32_t> place)].strict:
            raise ValueError(f"{place} is strict: requests go to the groups below it")
        return 0

    cdef int require_limit(self, int64_t limit) except -1:
        if limit < 1 or limit > self.core.queue.limit_max or not self.core.queue.limits[limit].exists:
            raise ValueError(f"limit is {limit}: there is no such limit")
        return 0

    # Limits

    def add_limit(self, int64_t now_ns, int64_t running_max, /):
        self.enter(now_ns)
        limited("running_max", running_max, 0, COST_MAX)
        cdef int32_t limit = limit_add(&self.core.queue, <int32_t> running_max)
        if limit == 0:
            raise ValueError(f"there are {self.core.queue.limit_max} limits already, which is limits_max")
        return limit

    def set_limit(self, int64_t now_ns, int64_t limit, int64_t running_max, /):
        self.enter(now_ns)
        limited("running_max", running_max, 0, COST_MAX)
        self.require_limit(limit)
        limit_set(&self.core.queue, <int32_t> limit, <int32_t> running_max)

    def remove_limit(self, int64_t now_ns, int64_t limit, /):
        self.enter(now_ns)
        self.require_limit(limit)
        if self.core.queue.limits[limit].places != NIL:
            raise ValueError(f"limit {limit} has places: remove them first")
        limit_remove(&self.core.queue, <int32_t> limit)

    # Pools

    cdef int32_t add_level(self, str kind, int32_t first, int32_t count, int32_t parent, int64_t weight, int64_t rank,
                           int64_t limit) except -1:
        limited("weight", weight, 1, WEIGHT_MAX)
        limited("rank", rank, 0, 1 << 20)
        if limit != 0:
            self.require_limit(limit)
            if limit_is_above(&self.core.queue, <int32_t> limit, parent):
                raise ValueError(f"limit is {limit}, which counts all in {parent - 1} already: choose another, or 0")
        cdef int32_t level = level_free(&self.core.queue, level_of(first), count)
        if level == NIL:
            raise ValueError(f"there are {count} {kind} already, which is {kind}_max")
        level_add(&self.core.queue, level, parent, <int32_t> weight, <int32_t> rank, <int32_t> limit)
        return level - 1

    def add_pool(self, int64_t now_ns, int64_t weight=1, int64_t limit=0, /):
        self.enter(now_ns)
        cdef int32_t pool = self.add_level("pools", 0, self.core.pool_max, ROOT, weight, 0, limit)
        self.core.down_since[pool] = now_ns
        return pool

    def remove_pool(self, int64_t now_ns, int64_t pool, /):
        self.enter(now_ns)
        self.require_pool(pool)
        cdef Share *share = &self.core.queue.shares[level_of(<int32_t> pool)]
        if (share.waiting > 0 or share.running > 0 or self.core.nodes.members[pool] > 0
                or self.core.queue.levels[level_of(<int32_t> pool)].child != NIL):
            raise ValueError(f"pool {pool} has {share.waiting} waiting, {share.running} running, "
                             f"{self.core.nodes.members[pool]} nodes, or groups: it must be empty")
        level_remove(&self.core.queue, level_of(<int32_t> pool))

    # Groups

    def add_group(self, int64_t now_ns, int64_t parent, int64_t weight=1, int64_t rank=0, int64_t limit=0, /):
        self.enter(now_ns)
        self.require_level(parent)
        return self.add_level("groups", self.core.pool_max, self.core.group_max, level_of(<int32_t> parent), weight,
                              rank, limit)

    def remove_group(self, int64_t now_ns, int64_t group, /):
        self.enter(now_ns)
        self.require_group(group)
        cdef Share *share = &self.core.queue.shares[level_of(<int32_t> group)]
        if share.waiting > 0 or share.running > 0 or self.core.queue.levels[level_of(<int32_t> group)].child != NIL:
            raise ValueError(f"group {group} has {share.waiting} waiting, {share.running} running, or groups: "
                             "it must be empty")
        level_remove(&self.core.queue, level_of(<int32_t> group))

    def set_weight(self, int64_t now_ns, int64_t place, int64_t weight, /):
        self.enter(now_ns)
        limited("weight", weight, 1, WEIGHT_MAX)
        self.require_level(place)
        level_set_weight(&self.core.queue, level_of(<int32_t> place), <int32_t> weight)

    def set_strict(self, int64_t now_ns, int64_t pool, int64_t promote_after_ns, /):
        self.enter(now_ns)
        limited("promote_after_ns", promote_after_ns, 0, INT64_MAX)
        self.require_pool(pool)
        cdef int32_t level = level_of(<int32_t> pool)
        if self.core.queue.shares[level].waiting > 0 or self.core.queue.shares[level].running > 0:
            raise ValueError(f"pool {pool} has requests: it must be empty to become strict")
        level_set_strict(&self.core.queue, level, promote_after_ns)

    # Nodes

    def add_node(self, int64_t now_ns, int64_t slots, /):
        self.enter(now_ns)
        limited("slots", slots, 0, 1 << 24)
        cdef int32_t node = node_add(&self.core.nodes, <int32_t> slots)
        if node == NIL:
            raise ValueError(f"there are {self.core.nodes.node_count} nodes already, which is nodes_max")
        return node_handle(&self.core.nodes, node)

    def remove_node(self, int64_t now_ns, int64_t node, /):
        cdef int32_t k
        self.enter(now_ns)
        cdef int32_t index = node_find(&self.core.nodes, node)
        if index == NIL:
            return False
        cdef list pools = self.pools_of(index)
        core_forget_node(&self.core, index)
        node_remove(&self.core.nodes, index)
        for k in pools:
            pool_changed(&self.core, k)
        return True

    cdef list pools_of(self, int32_t node):
        cdef int32_t k
        return [self.core.nodes.pools[<int64_t> node * self.core.nodes.pool_max + k]
                for k in range(self.core.nodes.nodes[node].pool_count)]

    def set_node_pools(self, int64_t now_ns, int64_t node, pools, /):
        cdef int32_t pool
        cdef list wanted = sorted(set(pools))
        self.enter(now_ns)
        for pool in wanted:
            self.require_pool(pool)
        cdef int32_t index = node_find(&self.core.nodes, node)
        if index == NIL:
            return False
        cdef list touched = sorted({*wanted, *self.pools_of(index)})
        node_leave_pools(&self.core.nodes, index)
        for pool in wanted:
            node_join_pool(&self.core.nodes, index, pool)
        node_refresh(&self.core.nodes, index)
        for pool in touched:
            pool_changed(&self.core, pool)
        return True

    def set_node_state(self, int64_t now_ns, int64_t node, int64_t state, /):
        self.enter(now_ns)
        limited("state", state, DOWN, DRAINING)
        cdef int32_t index = node_find(&self.core.nodes, node)
        if index == NIL:
            return False
        node_set_state(&self.core.nodes, index, <int32_t> state)
        node_changed(&self.core, index)
        return True

    def set_node_slots(self, int64_t now_ns, int64_t node, int64_t slots, /):
        self.enter(now_ns)
        limited("slots", slots, 0, 1 << 24)
        cdef int32_t index = node_find(&self.core.nodes, node)
        if index == NIL:
            return False
        self.core.nodes.nodes[index].slots = <int32_t> slots
        node_refresh(&self.core.nodes, index)
        node_changed(&self.core, index)
        return True

    def set_node_load(self, int64_t now_ns, int64_t node, double gpu_load, int64_t others, /):
        self.enter(now_ns)
        limited("others", others, 0, 1 << 24)
        if gpu_load != gpu_load:
            raise ValueError("gpu_load is NaN: choose 0..1, or a negative number for unknown")
        cdef int32_t index = node_find(&self.core.nodes, node)
        if index == NIL:
            return False
        self.core.nodes.nodes[index].gpu = min(gpu_load, 1.0)
        self.core.nodes.nodes[index].others = <int32_t> others
        node_refresh(&self.core.nodes, index)
        return True

    # Requests

    def submit(self, int64_t now_ns, int64_t place, uint64_t user, int64_t weight, int64_t cost, int64_t width,
               int64_t size_bytes, int64_t deadline_ns, int64_t user_running_max, int64_t user_waiting_max, /):
        cdef Submission submission
        self.enter(now_ns)
        self.require_place(place)
        if not (0 < weight <= 1 << 20 and 0 <= cost < <int64_t> 1 << 31 and 0 < width < 1 << 15
                and 0 <= size_bytes < <int64_t> 1 << 31 and 0 <= user_running_max < <int64_t> 1 << 31
                and -1 <= user_waiting_max < <int64_t> 1 << 31):
            limited("weight", weight, 1, WEIGHT_MAX)
            limited("cost", cost, 0, COST_MAX)
            limited("width", width, 1, WIDTH_MAX)
            limited("size_bytes", size_bytes, 0, COST_MAX)
            limited("user_running_max", user_running_max, 0, COST_MAX)
            limited("user_waiting_max", user_waiting_max, NEVER_WAIT, COST_MAX)
        submission.deadline_ns = deadline_ns
        submission.user = user
        submission.place = <int32_t> place
        submission.weight = <int32_t> weight
        submission.cost = <int32_t> cost
        submission.width = <int32_t> width
        submission.size_bytes = <int32_t> size_bytes
        submission.running_max = <int32_t> user_running_max
        submission.waiting_max = <int32_t> user_waiting_max
        return core_submit(&self.core, &submission)

    def drain(self, int64_t now_ns, /):
        cdef int32_t i
        cdef Decision *decision
        cdef list decisions = []
        self.enter(now_ns)
        for i in range(core_drain(&self.core)):
            decision = &self.core.decisions[i]
            decisions.append((decision.kind, decision.handle, decision.node))
        return decisions

    def finish(self, int64_t now_ns, int64_t handle, int64_t outcome, int64_t cost, /):
        self.enter(now_ns)
        if outcome < COMPLETED or outcome > FAILED or cost < 0 or cost >= <int64_t> 1 << 31:
            limited("outcome", outcome, COMPLETED, FAILED)
            limited("cost", cost, 0, COST_MAX)
        return core_finish(&self.core, handle, <int32_t> outcome, <int32_t> cost)

    def cancel(self, int64_t now_ns, int64_t handle, /):
        self.enter(now_ns)
        return core_cancel(&self.core, handle)

    def requeue(self, int64_t now_ns, int64_t handle, /):
        self.enter(now_ns)
        return core_requeue(&self.core, handle)

    def move(self, int64_t now_ns, int64_t handle, int64_t place, /):
        self.enter(now_ns)
        self.require_place(place)
        return core_move(&self.core, handle, <int32_t> place)

    # Looking

    def next_deadline_ns(self):
        return heap_top(&self.core.deadlines).key if self.core.deadlines.size > 0 else NEVER

    def position(self, int64_t handle, /):
        return queue_position(&self.core.queue, slots_find(&self.core.slots, handle))

    def position_if(self, int64_t place, uint64_t user, weight, int64_t deadline_ns, /):
        self.require_place(place)
        return queue_position_if(&self.core.queue, level_of(<int32_t> place), user,
                                 <int32_t> limited("weight", weight, 1, WEIGHT_MAX), deadline_ns)

    def counters(self):
        return counter_numbers(&self.core)

    def pool(self, int64_t pool, /):
        self.require_pool(pool)
        return pool_numbers(&self.core, <int32_t> pool)

    def group(self, int64_t group, /):
        self.require_group(group)
        return group_numbers(&self.core, <int32_t> group)

    def limit(self, int64_t limit, /):
        self.require_limit(limit)
        return limit_numbers(&self.core, <int32_t> limit)

    def node(self, int64_t node, /):
        cdef int32_t index = node_find(&self.core.nodes, node)
        return {} if index == NIL else node_numbers(&self.core, index)

    def user(self, int64_t place, uint64_t user, /):
        self.require_place(place)
        cdef int32_t index = user_find(&self.core.queue, user)
        index = NIL if index == NIL else flow_find(&self.core.queue, index, level_of(<int32_t> place))
        return {} if index == NIL else flow_numbers(&self.core, index)

    def check(self):
        cdef const char *fault = core_fault(&self.core)
        if fault != NULL:
            raise AssertionError(fault.decode())
