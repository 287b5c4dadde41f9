"""The scheduler driven by a loop in C: what its operations cost without Python around them.

Built by benches (not shipped). All loops run on a queue that was filled before: random users (of ``users``), random
deadlines, 8 nodes that are all busy. Times are taken with CLOCK_MONOTONIC around the whole loop.
"""

from fairlead.core.nodes cimport node_choose, node_lease, node_release
from fairlead.core.dispatch cimport (
    ENDED_COMPLETED, KIND_DISPATCHED, Submission, core_cancel, core_drain, core_finish, core_submit,
)
from fairlead.core.scheduler cimport Scheduler
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import fairlead.core.scheduler as core


cdef inline int64_t clock_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1000000000 + now.tv_nsec


cdef inline uint64_t draw(uint64_t *state) noexcept nogil:
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef class Loop:
    cdef Scheduler scheduler
    cdef Submission submission
    cdef uint64_t random
    cdef int64_t users
    cdef int64_t *running     # handles in flight, a ring
    cdef int32_t running_count
    cdef int32_t ring
    cdef int64_t *waiting     # handles of the requests that wait, for cancel
    cdef int32_t waiting_count
    cdef int32_t[16] places
    cdef int32_t place_count
    cdef bint tokens

    def __cinit__(self, *, int64_t users, int32_t waiting, int32_t nodes=8, int32_t slots=4, str shape="plain"):
        """shape: plain (wfq), tokens (costs that are estimated and corrected), tiers (16:4:1), teams (ten), limits
        (as teams; half of them share a limit that they fill, and so do the others)."""
        cdef int32_t i
        self.scheduler = core.Scheduler(waiting_max=waiting + nodes * slots, running_max=nodes * slots, nodes_max=nodes,
                                        pools_max=4, groups_max=16, limits_max=2)
        self.users = users
        self.random = 88172645463325252
        self.running = <int64_t *> calloc(nodes * slots, sizeof(int64_t))
        self.waiting = <int64_t *> calloc(waiting, sizeof(int64_t))
        self.submission.weight = self.submission.cost = self.submission.width = 1
        self.submission.place = self.scheduler.add_pool(0)
        self.tokens = shape == "tokens"
        self.places[0] = self.submission.place
        self.place_count = 1
        if shape in ("tiers", "teams", "limits"):
            limits = [self.scheduler.add_limit(0, nodes * slots // 2) for _ in range(2 if shape == "limits" else 0)]
            weights = (16, 4, 1) if shape == "tiers" else (1,) * 10
            self.place_count = len(weights)
            for i, weight in enumerate(weights):
                limit = limits[i % 2] if limits else 0
                self.places[i] = self.scheduler.add_group(0, self.submission.place, weight, 0, limit)
        for i in range(nodes):
            node = self.scheduler.add_node(0, slots)
            self.scheduler.set_node_pools(0, node, [self.submission.place])
            self.scheduler.set_node_load(0, node, (i * 37 % 100) / 100, 0)
            self.scheduler.set_node_state(0, node, core.UP)
        while self.running_count < nodes * slots:  # ends: among random users are some below every limit
            self.submit()
            self.drain()
        for i in range(waiting):
            self.waiting[i] = self.submit()
        self.waiting_count = waiting

    def __dealloc__(self):
        free(self.running)
        free(self.waiting)

    cdef inline int64_t submit(self) noexcept nogil:
        cdef uint64_t number = draw(&self.random)
        self.submission.user = number % self.users
        if self.place_count > 1:
            self.submission.place = self.places[self.submission.user % self.place_count]
        if self.tokens:
            self.submission.cost = 1 + <int32_t> (number >> 32) % 4000
        self.submission.deadline_ns = (<int64_t> 1 << 60) + <int64_t> (number >> 16)
        return core_submit(&self.scheduler.core, &self.submission)

    cdef inline void drain(self) noexcept nogil:
        cdef int32_t i
        for i in range(core_drain(&self.scheduler.core)):
            self.running[self.running_count] = self.scheduler.core.decisions[i].handle
            self.running_count += 1

    def cycle(self, int64_t count):
        """submit, finish the oldest running request, dispatch the next one; ns for each such triple."""
        cdef int64_t start
        cdef int32_t oldest = 0, slots = self.running_count
        with nogil:
            start = clock_ns()
            for _ in range(count):
                self.submit()
                core_finish(&self.scheduler.core, self.running[oldest], ENDED_COMPLETED,
                            1 + <int32_t> (draw(&self.random) >> 32) % 4000 if self.tokens else 1)
                core_drain(&self.scheduler.core)
                self.running[oldest] = self.scheduler.core.decisions[0].handle
                oldest += 1
                if oldest == slots:
                    oldest = 0
            start = clock_ns() - start
        if self.scheduler.core.decisions[0].kind != KIND_DISPATCHED or self.scheduler.core.decision_count != 1:
            raise AssertionError("the loop did not dispatch one request for each that it finished")
        return start / count

    def cancel(self, int64_t count):
        """Cancel requests from all over the queue; ns for each. Once only: the handles are spent."""
        cdef int64_t start, done = 0
        cdef int32_t at = 0
        if count > self.waiting_count:
            raise ValueError(f"count is {count}: {self.waiting_count} wait")
        with nogil:
            start = clock_ns()
            for _ in range(count):
                at = (at + 7919) % self.waiting_count
                done += core_cancel(&self.scheduler.core, self.waiting[at])
            start = clock_ns() - start
        if done != count:
            raise AssertionError(f"only {done} of {count} were still waiting")
        return start / count

    def choose(self, int64_t count):
        """Choose a node and count a lease on it, and release one: the choice with what keeps it right; ns."""
        cdef int64_t start
        cdef int32_t node
        with nogil:
            start = clock_ns()
            for _ in range(count):
                node = node_choose(&self.scheduler.core.nodes, 0, -1, -1)
                node_lease(&self.scheduler.core.nodes, node, 1)
                node_release(&self.scheduler.core.nodes, node, 1)
            start = clock_ns() - start
        return start / count

    def release_all(self):
        cdef int32_t i
        for i in range(self.running_count):
            core_finish(&self.scheduler.core, self.running[i], ENDED_COMPLETED, 1)
