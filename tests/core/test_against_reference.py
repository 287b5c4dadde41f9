"""The core against the independent reference: the same random operations, orders and counters equal to the unit.

One pool. Weights divide 720720, so that the reference's fractions and the core's integers are the same numbers.
"""

import random

import pytest

from fairlead.core import scheduler as core
from models.reference_scheduler import Ref

USERS = "abcdef"


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("policy", ["wfq", "fifo"])
def test_same_orders_and_counters(policy, seed):
    rng = random.Random(seed)
    weights = {user: rng.choice([1, 1, 2, 3, 5, 7, 16]) for user in USERS}
    caps = {user: rng.choice([10**6, 10**6, 1, 2]) for user in USERS}
    slots = rng.choice([1, 2, 5])
    reference = Ref(policy, weights=weights, caps=caps)
    scheduler = core.Scheduler(
        waiting_max=400,
        running_max=50,
        flows_max=460,
        nodes_max=1,  # check walks every table: small ones make it affordable at every step
        pools_max=1,
        order=core.FIFO if policy == "fifo" else core.FAIR,
        rebase_at=1 << 60,
    )
    pool = scheduler.add_pool(0)
    node = scheduler.add_node(0, slots)
    scheduler.set_node_pools(0, node, [pool])
    scheduler.set_node_state(0, node, core.UP)
    handles, waiting, running = {}, {}, []
    for number in range(500):
        action = rng.random()
        if action < 0.5:
            user, cost = rng.choice(USERS), rng.randint(0, 20)
            reference.enqueue(user, {"id": number, "est": cost})
            handle = scheduler.submit(0, pool, ord(user), weights[user], cost, 1, 0, core.NEVER, caps[user], 0)
            handles[handle], waiting[number] = number, (user, handle)
        elif action < 0.6 and waiting:
            number_gone = rng.choice(sorted(waiting))
            user, handle = waiting.pop(number_gone)
            reference.cancel(user, number_gone)
            assert scheduler.cancel(0, handle)
        elif running:
            request, handle = running.pop(rng.randrange(len(running)))
            actual = rng.choice([request["est"], rng.randint(0, 30)])
            reference.done(request, actual)
            assert scheduler.finish(0, handle, core.COMPLETED, actual)
        decisions = scheduler.drain(0)
        for kind, handle, _ in decisions:
            picked = reference.pick()
            assert kind == core.DISPATCHED
            assert picked["id"] == handles[handle]
            waiting.pop(picked["id"])
            running.append((picked, handle))
        if len(running) < slots:
            assert not any(reference.elig(flow) for flow in reference.fl.values())
        scheduler.check()
        for user in USERS:
            counter = scheduler.user(pool, ord(user)).get("virtual_start")
            if counter is not None:  # a forgotten one says no more than the virtual time
                assert counter == reference.flow(user).c * core.VIRTUAL_UNIT
            else:
                assert reference.flow(user).c <= reference.V
        assert scheduler.pool(pool)["virtual_time"] == reference.V * core.VIRTUAL_UNIT
