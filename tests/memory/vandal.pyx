"""Breaks the rules of a scheduler from behind, one at a time, so that tests can see who notices; and lets time fly.

Each function expects the scheduler that test_broken_rules.py makes. Nothing may be called afterwards but ``check``, and
what is then to abort.
"""

from fairlead.core.dispatch cimport Core
from fairlead.core.flows cimport flow_find, user_find
from fairlead.core.heap cimport IndexedHeap, heap_at, heap_push, heap_top, heap_update
from fairlead.core.scheduler cimport Scheduler
from fairlead.core.shares cimport NOWHERE, ROOT, Share, User
from fairlead.core.slots cimport FREE, Request
from libc.stdint cimport int32_t, uint64_t

cdef enum:
    LEVEL = 1        # of pool 0
    CALM_POOL = 1    # it has room, and nobody waits for it
    CALM_LEVEL = 2
    GROUP_LEVEL = 4  # below pool 1
    LIMIT = 1        # its places: pool 0, where one request runs, and the group
    BUSY_NODE = 0
    CALM_NODE = 1


cdef int32_t flow_of(Core *core, uint64_t user):
    return flow_find(&core.queue, user_find(&core.queue, user), LEVEL)


cdef Share *share_of(Core *core, uint64_t user):
    return &core.queue.shares[flow_of(core, user)]


cdef User *user_of(Core *core, uint64_t user):
    return &core.queue.users[user_find(&core.queue, user)]


cdef Request *head_of(Core *core, uint64_t user):
    return &core.slots.requests[share_of(core, user).head]


cdef Request *tail_of(Core *core, uint64_t user):
    return &core.slots.requests[share_of(core, user).tail]


# Users are 1 (one request runs, two wait), 2 (one waits) and 3 (idle, in debt).

def request_in_a_strange_queue(Scheduler it):
    head_of(&it.core, 1).flow = flow_of(&it.core, 2)


def wrong_link_back(Scheduler it):
    tail_of(&it.core, 1).previous = share_of(&it.core, 1).tail


def wrong_order(Scheduler it):
    head_of(&it.core, 1).order = tail_of(&it.core, 1).order + 1


def wrong_length(Scheduler it):
    share_of(&it.core, 1).waiting += 1


def limit_without_effect(Scheduler it):
    user_of(&it.core, 1).running_max = 1


def idle_flow_nowhere(Scheduler it):
    share_of(&it.core, 3).where = NOWHERE
    it.core.queue.position[flow_of(&it.core, 3)] = -1


def idle_flow_overtaken(Scheduler it):
    it.core.queue.levels[LEVEL].virtual_time = share_of(&it.core, 3).start


def share_left_in_a_heap(Scheduler it):
    share_of(&it.core, 3).where = NOWHERE


def wrong_stamp(Scheduler it):
    share_of(&it.core, 1).stamp += 1


def wrong_start(Scheduler it):
    share_of(&it.core, 1).start += 1


def page_too_many(Scheduler it):
    it.core.deadlines.page_count += 1


def page_too_many_of_the_ready(Scheduler it):
    it.core.queue.levels[LEVEL].ready.page_count += 1


def page_too_many_of_the_idle(Scheduler it):
    it.core.queue.levels[LEVEL].idle.page_count += 1


def page_too_many_of_the_open(Scheduler it):
    it.core.nodes.open[CALM_POOL].page_count += 1


def wrong_heap_position(Scheduler it):
    it.core.deadline_position[heap_top(&it.core.deadlines).item] = 1


def heap_out_of_order(Scheduler it):
    heap_at(&it.core.deadlines, 1).key = -1


def wrong_level_count(Scheduler it):
    it.core.queue.shares[LEVEL].waiting += 1


def wrong_ready_weight(Scheduler it):
    it.core.queue.levels[LEVEL].ready_weight += 1


def full_pool_opened(Scheduler it):
    it.core.queue.levels[LEVEL].open = True


def calm_pool_closed(Scheduler it):
    it.core.queue.levels[CALM_LEVEL].open = False


def endless_list_of_flows(Scheduler it):
    share_of(&it.core, 1).user_next = flow_of(&it.core, 1)


def wrong_user_count(Scheduler it):
    user_of(&it.core, 1).waiting += 1


def wrong_user_key(Scheduler it):
    user_of(&it.core, 1).key += 1000


def wrong_flow_count(Scheduler it):
    it.core.queue.flow_count += 1


def deadline_of_a_running_request(Scheduler it):
    cdef int32_t slot
    for slot in range(it.core.slots.request_max):
        if it.core.deadline_position[slot] < 0:
            it.core.deadline_position[slot] = 0


def wrong_deadline(Scheduler it):
    head_of(&it.core, 1).deadline_ns -= 1


def wrong_root_count(Scheduler it):
    it.core.queue.shares[ROOT].waiting += 1


def wrong_slots_used(Scheduler it):
    it.core.slots.used += 1


def wrong_bytes(Scheduler it):
    it.core.queue.waiting_bytes += 1


def node_not_offered(Scheduler it):
    it.core.nodes.nodes[BUSY_NODE].slots += 1


def stale_score(Scheduler it):
    it.core.nodes.nodes[CALM_NODE].gpu = 0.9


def wrong_members(Scheduler it):
    it.core.nodes.members[CALM_POOL] += 1


def wrong_leases(Scheduler it):
    it.core.nodes.nodes[BUSY_NODE].leases -= 1


def pool_down_with_a_node(Scheduler it):
    it.core.down_since[CALM_POOL] = 0


def group_closed(Scheduler it):
    it.core.queue.levels[GROUP_LEVEL].open = False


def endless_list_of_places(Scheduler it):
    it.core.queue.levels[GROUP_LEVEL].limit_next = LEVEL


def limit_that_counts_twice(Scheduler it):
    it.core.queue.levels[CALM_LEVEL].limit = LIMIT


def wrong_limit_count(Scheduler it):
    it.core.queue.limits[LIMIT].running -= 1


def unlisted_place(Scheduler it):
    it.core.queue.levels[LEVEL].limit_next = -1


def wrong_part_of_the_room(Scheduler it):
    user_of(&it.core, 1).weight = 2
    it.core.queue.crowd.waiting_weight += 1


def wrong_weight_of_the_waiting(Scheduler it):
    it.core.queue.crowd.waiting_weight += 1


def stranger_in_the_crowd(Scheduler it):
    heap_push(&it.core.queue.crowd.by_count, -1, 0, user_find(&it.core.queue, 3))


def second_outcome(Scheduler it):
    it.core.counters.completed += 1


# Of a scheduler in which user 1 has two requests that wait, by deadline.

def earlier_deadline_behind(Scheduler it):
    cdef Request *tail = tail_of(&it.core, 1)
    tail.deadline_ns = head_of(&it.core, 1).deadline_ns - 1
    heap_update(&it.core.deadlines, tail.deadline_ns, tail.order, share_of(&it.core, 1).tail)


# A heap that is nobody's part.

def heap_on_its_head(IndexedHeap it):
    heap_at(&it.heap, 0).key = 1 << 40


# Not broken, but old.

def last_generations(Scheduler it):
    """As if every free place had been used 2**31 - 2 times."""
    cdef int32_t index
    for index in range(it.core.slots.request_max):
        if it.core.slots.requests[index].state == FREE:
            it.core.slots.requests[index].generation = 0x7fffffff
    for index in range(it.core.nodes.node_max):
        if not it.core.nodes.nodes[index].exists:
            it.core.nodes.nodes[index].generation = 0x7fffffff
