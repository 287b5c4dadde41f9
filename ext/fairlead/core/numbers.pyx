"""What can be read of the scheduler, as dictionaries: names as in scheduler.pyi. Nothing changes here."""

from fairlead.core.dispatch cimport Core, level_of
from fairlead.core.nodes cimport Node
from fairlead.core.shares cimport ROOT, Level, Limit, Share
from fairlead.core.slots cimport NIL
from libc.stdint cimport int32_t


cdef dict counter_numbers(Core *core):
    cdef dict counters = core.counters
    counters["refused"] = (counters["refused_queue_full"] + counters["refused_user_queue_full"]
                           + counters["refused_bytes_full"])
    counters["waiting"] = core.queue.shares[ROOT].waiting
    counters["waiting_bytes"] = core.queue.waiting_bytes
    counters["running"] = core.queue.shares[ROOT].running
    counters["flows"] = core.queue.flow_count
    counters["users"] = core.queue.user_count
    return counters


cdef dict pool_numbers(Core *core, int32_t pool):
    cdef Share *share = &core.queue.shares[level_of(pool)]
    cdef Level *level = &core.queue.levels[level_of(pool)]
    return {"waiting": share.waiting, "running": share.running, "nodes": core.nodes.members[pool],
            "usable": core.nodes.usable[pool], "open": core.nodes.open[pool].size, "virtual_time": level.virtual_time,
            "eligible_users": level.ready.size, "eligible_weight": level.ready_weight}


cdef dict group_numbers(Core *core, int32_t group):
    cdef Share *share = &core.queue.shares[level_of(group)]
    cdef Level *level = &core.queue.levels[level_of(group)]
    return {"waiting": share.waiting, "running": share.running, "weight": share.weight, "virtual_start": share.start,
            "virtual_time": level.virtual_time, "eligible": level.ready.size, "eligible_weight": level.ready_weight}


cdef dict limit_numbers(Core *core, int32_t limit):
    cdef Limit *it = &core.queue.limits[limit]
    cdef int32_t level = it.places, places = 0
    while level != NIL:
        places += 1
        level = core.queue.levels[level].limit_next
    return {"running": it.running, "running_max": it.running_max, "places": places}


cdef dict node_numbers(Core *core, int32_t node):
    cdef Node *it = &core.nodes.nodes[node]
    return {"state": it.state, "slots": it.slots, "running": it.running, "leases": it.leases, "others": it.others,
            "score": it.score, "chosen": it.chosen}


cdef dict flow_numbers(Core *core, int32_t flow):
    cdef Share *share = &core.queue.shares[flow]
    return {"waiting": share.waiting, "running": share.running, "virtual_start": share.start, "weight": share.weight}
