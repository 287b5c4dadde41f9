"""The core against the independent reference: the same random operations, orders and counters equal to the unit.

One pool. Weights divide 720720, so that the reference's fractions and the core's integers are the same numbers. What
the reference does not have is told to it in its own terms: a request that expires is one that is cancelled, a limit or
a weight that changes is set on its flow (and what was charged at the old one is corrected at that), and how many slots
there are is the number of times that it is asked.
"""

import random
from collections import Counter

import pytest

from fairlead.core import scheduler as core
from models.reference_scheduler import Ref

USERS = "abcdef"
WEIGHTS = [1, 1, 2, 3, 5, 7, 16]
CAPS = [0, 0, 1, 2]  # 0: no limit
HISTORIES, STEPS = 40, 500  # of each policy
DONE = Counter()  # operations of this run, by kind


class Both:
    """Core and reference under the same hand. Requests are numbered."""

    def __init__(self, rng, policy):
        self.rng, self.now, self.slots, self.number = rng, 0, rng.choice([1, 2, 5]), 0
        self.weight = {user: rng.choice(WEIGHTS) for user in USERS}
        self.cap = {user: rng.choice(CAPS) for user in USERS}
        self.reference = Ref(policy)
        self.core = core.Scheduler(
            waiting_max=400,
            running_max=50,
            flows_max=460,
            nodes_max=1,  # check walks every table: small ones make it affordable at every step
            pools_max=1,
            order=core.FIFO if policy == "fifo" else core.FAIR,
        )
        self.pool = self.core.add_pool(0)
        self.node = self.core.add_node(0, self.slots)
        self.core.set_node_pools(0, self.node, [self.pool])
        self.core.set_node_state(0, self.node, core.UP)
        self.handles, self.waiting, self.running = {}, {}, []

    def enqueue(self):
        user, cost = self.rng.choice(USERS), self.rng.randint(0, 20)
        if self.rng.random() < 0.05:
            self.weight[user] = self.rng.choice(WEIGHTS)
            DONE["weight"] += 1
        if self.rng.random() < 0.05:
            self.cap[user] = self.rng.choice(CAPS)
            DONE["cap"] += 1
        flow = self.reference.flow(user)
        was = self.reference.elig(flow)
        flow.w, flow.cap = self.weight[user], self.cap[user] or 10**9
        if self.reference.elig(flow) and not was:  # a raised limit lets in who waited for it
            self.reference._activate(flow)
        self.reference.enqueue(user, {"id": self.number, "est": cost})
        deadline = self.now + self.rng.choice([30, core.NEVER - self.now])
        rest = (self.weight[user], cost, 1, 0, deadline, self.cap[user], 0)
        handle = self.core.submit(self.now, self.pool, ord(user), *rest)
        assert handle > 0
        self.handles[handle], self.waiting[self.number] = self.number, (user, handle)
        self.number += 1

    def cancel(self):
        number = self.rng.choice(sorted(self.waiting))
        assert self.core.cancel(self.now, self.waiting[number][1])
        self.leave(number)

    def leave(self, number):
        """A waiting request is gone. The reference looks only when one has run whether its busy period is over."""
        user, _ = self.waiting.pop(number)
        self.reference.cancel(user, number)
        if not self.waiting and not self.running:
            self.reference.V = 0
            for flow in self.reference.fl.values():
                flow.c = 0

    def finish(self):
        request, handle, flow, weight = self.running.pop(self.rng.randrange(len(self.running)))
        actual = self.rng.choice([request["est"], self.rng.randint(0, 30)])
        DONE["corrected"] += actual != request["est"]
        flow.w, now = weight, flow.w
        self.reference.done(request, actual)
        flow.w = now
        assert self.core.finish(self.now, handle, core.COMPLETED, actual)

    def change_slots(self):
        self.slots = self.rng.choice([0, 1, 2, 5])
        assert self.core.set_node_slots(self.now, self.node, self.slots)

    def step(self):
        action = self.rng.random()
        if action < 0.5:
            kind = self.enqueue
        elif action < 0.6:
            kind = self.cancel if self.waiting else None
        elif action < 0.62:
            kind = self.change_slots
        else:
            kind = self.finish if self.running else None
        if kind:
            kind()
            DONE[kind.__name__] += 1
        self.now += self.rng.choice([0, 1])

    def drain(self):
        for kind, handle, _ in self.core.drain(self.now):
            number = self.handles[handle]
            if kind == core.EXPIRED:
                self.leave(number)
                DONE["expire"] += 1
                continue
            assert kind == core.DISPATCHED
            picked = self.reference.pick()
            assert picked["id"] == number
            flow = self.reference.flow(self.waiting.pop(number)[0])
            self.running.append((picked, handle, flow, flow.w))
            DONE["dispatch"] += 1
        if len(self.running) < self.slots:
            assert not any(self.reference.elig(flow) for flow in self.reference.fl.values())

    def compare(self):
        virtual_time = self.reference.V * core.VIRTUAL_UNIT
        state = self.core.pool(self.pool)
        assert state["virtual_time"] == virtual_time
        assert (state["waiting"], state["running"]) == (len(self.waiting), len(self.running))
        for user in USERS:
            flow, seen = self.reference.flow(user), self.core.user(self.pool, ord(user))
            if seen:
                assert seen["virtual_start"] == flow.c * core.VIRTUAL_UNIT
                assert (seen["waiting"], seen["running"]) == (len(flow.q), flow.inflight)
            else:  # a forgotten one says no more than the virtual time
                assert flow.c * core.VIRTUAL_UNIT <= virtual_time
                assert not flow.q and not flow.inflight
        DONE["compare"] += 1


@pytest.mark.parametrize("seed", range(HISTORIES))
@pytest.mark.parametrize("policy", ["wfq", "fifo"])
def test_same_orders_and_counters(policy, seed):
    both = Both(random.Random(seed), policy)
    for _ in range(STEPS):
        both.step()
        if both.rng.random() < 0.8:
            both.drain()
        both.core.check()
        both.compare()
    DONE["histories"] += 1


def test_that_was_twenty_thousand_operations_of_every_kind():
    if DONE["histories"] < 2 * HISTORIES:
        pytest.skip("only some of the histories ran before, or one failed")
    kinds = ["enqueue", "dispatch", "finish", "cancel", "expire", "change_slots"]
    total = sum(DONE[kind] for kind in kinds)
    print(f"\ndifferential: {total:,} operations: {dict(DONE)}")
    assert total >= 20_000
    assert min(DONE[kind] for kind in [*kinds, "corrected", "weight", "cap"]) >= 300
