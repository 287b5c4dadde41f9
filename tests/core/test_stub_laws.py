"""Laws of the stub that core and model could break together: each is worked out from its text and not from either."""

import pytest

from fairlead.core import scheduler as core

from .lab import Lab


def test_a_users_own_limit_is_told_before_the_full_queue(make):
    """Every place is taken (one runs, one waits), and the user is at its own limit: that is the reason it is told."""
    lab = Lab(make(waiting_max=1, running_max=1))
    lab.submit("A1", limit=1)
    assert lab.drain() == ["A1"]
    lab.submit("A2", limit=1)
    assert lab.submit("A3", limit=1) == core.USER_QUEUE_FULL
    assert lab.submit("B1", limit=1) == core.QUEUE_FULL


def test_a_new_node_is_not_avoided_for_what_its_predecessor_did(make):
    """A1's node is removed, a new one takes its place in the table: by score and age the new one is A1's."""
    lab = Lab(make(), slots=(4, 4))
    lab.s.set_node_load(0, lab.nodes[1], 0.9, 3)
    lab.submit("A1")
    lab.drain()
    assert lab.where["A1"] == lab.nodes[0]
    assert lab.s.remove_node(0, lab.nodes[0])
    new = lab.node(4)
    lab.s.set_node_load(0, new, 0.0, 0)
    assert lab.s.requeue(0, lab.handles["A1"])
    lab.running.clear()
    lab.drain()
    assert lab.where["A1"] == new


@pytest.mark.parametrize(("weight", "estimate", "true"), [(1, 0, core.COST_MAX), (core.WEIGHT_MAX, core.COST_MAX, 0)])
def test_no_number_of_corrections_turns_a_counter_round(only_core, weight, estimate, true):
    """6,000 requests of one user run at once, and all turn out to cost the other extreme."""
    count = 6000
    scheduler = only_core(waiting_max=count + 2, running_max=count + 1)
    pool, node = scheduler.add_pool(0), scheduler.add_node(0, count + 1)
    scheduler.set_node_pools(0, node, [pool])
    scheduler.set_node_state(0, node, core.UP)
    scheduler.submit(0, pool, 9, 1, 1, 1, 0, core.NEVER, 0, 0)  # keeps the pool busy
    handles = [scheduler.submit(0, pool, 7, weight, estimate, 1, 0, core.NEVER, 0, 0) for _ in range(count)]
    while scheduler.drain(0):
        pass
    scheduler.submit(0, pool, 7, 1, 0, 1, 0, core.NEVER, 0, 0)  # weight 1 from here on
    starts = []
    for handle in handles:
        assert scheduler.finish(0, handle, core.COMPLETED, true)
        starts.append(scheduler.user(pool, 7)["virtual_start"])
    assert starts == sorted(starts, reverse=true == 0)


def test_of_the_idle_users_the_one_that_owes_least_is_forgotten(only_core):
    lab = Lab(only_core(waiting_max=2, running_max=2, flows_max=5), slots=(2,))
    lab.submit("Z", cost=1000)
    lab.drain()
    for user, cost in zip("ABCD", (70, 50, 60, 80), strict=True):
        lab.submit(user, cost=cost)
        lab.drain()
        lab.finish(user, cost)
    lab.submit("E")
    assert [user for user in "ABCDEZ" if lab.s.user(0, ord(user))] == list("ACDEZ")


def test_pools_share_by_weight(make):
    scheduler = make()
    pools = [scheduler.add_pool(0, 1), scheduler.add_pool(0, 3)]
    lab = Lab(scheduler, slots=(), pools=0)
    lab.pools = pools
    lab.node(1)
    lab.submit("Z", pool=0)
    lab.drain()
    lab.many("A1 A2 A3", pool=0)
    lab.many("B1 B2 B3 B4 B5 B6", pool=1)
    assert lab.serve() == "B1 B2 B3 A1 B4 B5 B6 A2 A3"  # Z was pool 0's first turn; a tie goes to the lower index
