"""What random operations meet seldom, each made to happen: collisions, full tables, limits, orders under FIFO."""

import itertools
import random

import pytest

from fairlead.core import scheduler as core

from .lab import Lab


@pytest.mark.parametrize("seed", range(5))
def test_users_that_come_and_go_are_found_in_a_crowded_table(only_core, seed):
    """Half of the table is in use, so that keys collide: check finds every user by its key."""
    rng = random.Random(seed)
    scheduler = only_core(waiting_max=31, running_max=1, flows_max=33)
    pool = scheduler.add_pool(0)
    waiting = {}
    for _ in range(400):
        if len(waiting) < 31:
            key = rng.getrandbits(64)
            waiting[key] = scheduler.submit(0, pool, key, 1, 1, 1, 0, core.NEVER, 0, 0)
            assert waiting[key] > 0
        else:
            for key in rng.sample(sorted(waiting), rng.randint(1, 8)):
                assert scheduler.cancel(0, waiting.pop(key))
                assert scheduler.user(pool, key) == {}
        scheduler.check()
        assert all(scheduler.user(pool, key)["waiting"] == 1 for key in waiting)


def test_an_idle_user_of_another_pool_makes_room(only_core):
    lab = Lab(only_core(waiting_max=2, running_max=2, flows_max=5), slots=(), pools=2)
    lab.node(2, [0])
    lab.submit("Z", cost=1000)
    lab.drain()
    for user, cost in zip("ABCD", (70, 50, 60, 80), strict=True):
        lab.submit(user, cost=cost)
        lab.drain()
        lab.finish(user, cost)
    assert lab.s.counters()["flows"] == 5
    assert lab.submit("E", pool=1) > 0  # where nobody is idle
    assert [user for user in "ABCDZ" if lab.s.user(0, ord(user))] == list("ACDZ")


@pytest.mark.parametrize(("order", "expected"), [(core.FIFO, "D1 C1 A2"), (core.FAIR, "A2 C1 D1")])
def test_a_request_that_is_cancelled_leaves_its_users_turn(make, order, expected):
    """FIFO has no users: the oldest request is next. Under FAIR the turn is A's, whichever of its requests is left."""
    lab = Lab(make(order=order), pools=2)
    lab.many("A1 B1 D1", pool=0)
    lab.submit("C1", pool=1)
    lab.submit("A2", pool=0)
    for name in ("A1", "B1"):
        assert lab.s.cancel(0, lab.handles[name])
    assert lab.serve() == expected


def test_under_fifo_what_comes_back_is_the_oldest_again(make):
    lab = Lab(make(order=core.FIFO))
    lab.many("A1 B1 A2")
    assert lab.drain() == ["A1"]
    lab.running.clear()
    assert lab.s.requeue(0, lab.handles["A1"])
    assert lab.serve() == "A1 B1 A2"


def test_under_fifo_what_comes_back_is_older_than_what_was_left_when_another_one_had_come_back_and_gone(make):
    lab = Lab(make(order=core.FIFO), slots=(2,))
    lab.many("A1 A2 B1 A3")
    assert lab.drain() == ["A1", "A2"]
    lab.running.clear()
    assert lab.s.requeue(0, lab.handles["A1"])
    assert lab.s.cancel(0, lab.handles["A1"])
    assert lab.s.requeue(0, lab.handles["A2"])
    assert lab.serve() == "A2 B1 A3"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_users_limit_reaches_all_its_pools_in_whatever_order_it_came_to_them(make, order):
    lab = Lab(make(), slots=(9,), pools=3)
    for pool in order:
        lab.submit(f"A{pool}", pool=pool, cap=1)
    # The pool that had work first, then those that have had no turn, in their own order, each when the last has ended.
    expected = [order[0], *sorted(order[1:])]
    for pool in expected:
        assert lab.drain() == [f"A{pool}"]
        assert [bool(lab.s.user(each, ord("A"))) for each in range(3)] == [
            each in expected[expected.index(pool) :] for each in range(3)
        ]
        lab.finish(f"A{pool}")
    assert lab.s.counters()["users"] == 0


def test_the_first_of_a_user_at_its_limit_may_be_cancelled(make):
    lab = Lab(make(order=core.FIFO), slots=(5,))
    lab.many("A1 A2 A3", cap=1)
    assert lab.drain() == ["A1"]
    assert lab.s.cancel(0, lab.handles["A2"])
    assert lab.drain() == []
    lab.finish("A1")
    assert lab.drain() == ["A3"]


def test_what_can_not_start_at_once_is_refused_by_a_full_queue(make):
    lab = Lab(make(waiting_max=0, running_max=2), slots=(9,))
    assert lab.submit("A1", cap=1) > 0
    assert lab.drain() == ["A1"]
    assert lab.submit("A2", cap=1) == core.QUEUE_FULL  # its user runs as many as it may
    assert lab.submit("B1") > 0
    assert lab.drain() == ["B1"]
    assert lab.submit("C1") == core.QUEUE_FULL  # the node has room, the router has not


def test_what_may_not_run_yet_has_to_fit_into_the_buffer(make):
    lab = Lab(make(waiting_max=5, running_max=1, waiting_bytes_max=10), slots=(9,))
    assert lab.submit("A1", size=11) > 0
    assert lab.drain() == ["A1"]
    assert lab.submit("B1", size=11) == core.BYTES_FULL  # the node has room, the router has not
    lab.finish("A1")
    assert lab.submit("B1", size=11) > 0


def test_a_full_queue_does_not_refuse_the_second_request_of_a_user_that_can_start(make):
    lab = Lab(make(waiting_max=0), slots=(), pools=2)
    lab.node(2, [0])
    lab.node(1, [1])
    for name, pool in (("A1", 0), ("A2", 0), ("A3", 1)):
        assert lab.submit(name, pool=pool) > 0
        assert lab.drain() == [name]
    assert lab.submit("A4", pool=0) == lab.submit("A5", pool=1) == core.QUEUE_FULL


def test_position_in_the_middle_and_of_a_user_at_its_limit(make):
    lab = Lab(make(), slots=(2,))
    lab.submit("A0", cap=1)
    lab.submit("Z")
    assert lab.drain() == ["A0", "Z"]
    lab.many("A1 A2", cap=1)
    lab.many("B1 B2 B3 B4 B5")
    position = {name: lab.s.position(handle) for name, handle in lab.handles.items()}
    # A is not eligible while A0 runs: its turns are counted as if it were, among weights 1 (B) and 1 (A).
    assert [position[name] for name in ("A1", "A2", "B1", "B3", "B5")] == [2, 4, 1, 3, 5]


def test_a_weight_that_changes_counts_at_once(make):
    lab = Lab(make())
    lab.submit("Z")
    lab.drain()
    lab.many("A1 B1")
    assert lab.s.pool(0)["eligible_weight"] == 2
    lab.submit("A2", weight=5)
    assert lab.s.pool(0)["eligible_weight"] == 6
    assert lab.s.user(0, ord("A"))["weight"] == 5


def test_a_user_that_is_moved_takes_its_debt_along(make):
    lab = Lab(make(), slots=(), pools=2)
    lab.node(1, [0])
    lab.submit("A1", cost=50)
    assert lab.drain() == ["A1"]
    lab.submit("A2")
    assert lab.s.move(0, lab.handles["A2"], 1)
    assert lab.start("A", pool=1) == 50
    lab.submit("B1", pool=1)
    lab.node(1, [1])
    lab.now += 1
    assert lab.drain() == ["B1"]  # A has had its share


def test_without_a_bound_on_the_wait_for_a_node_the_own_deadline_counts(make):
    lab = Lab(make(no_node_wait_ns=core.NEVER), up=False)
    lab.now = 5  # from here on the end of that wait is no number any more
    lab.s.set_node_state(lab.now, lab.nodes[0], core.UP)
    lab.s.set_node_state(lab.now, lab.nodes[0], core.DOWN)
    lab.submit("A1")
    assert lab.s.next_deadline_ns() == core.NEVER
    lab.submit("A2", deadline=100)
    assert lab.s.next_deadline_ns() == 100
    lab.now = 99
    assert lab.drain() == []
    lab.now = 100
    assert lab.drain() == ["!A2"]


def test_a_number_that_never_was_a_node_is_not_one(make):
    lab = Lab(make(nodes_max=2), slots=(1,))
    (node,) = lab.nodes
    # Another place in the table (the second, one beyond it, one far away), another generation, none at all.
    for strange in (node + 1, node + 2, node + 2**20, node + 2**32, -1, -node, 0):
        assert lab.s.node(strange) == {}
        assert not lab.s.set_node_state(0, strange, core.DOWN)
        assert not lab.s.remove_node(0, strange)
    assert lab.s.node(node)["state"] == core.UP


def test_a_node_that_is_gone_takes_no_orders(make):
    lab = Lab(make(nodes_max=2), slots=(1, 1))
    old = lab.nodes[0]
    with pytest.raises(ValueError, match="there are 2 nodes already"):
        lab.s.add_node(0, 1)
    assert lab.s.remove_node(0, old)
    assert lab.s.add_node(0, 1) not in (old, 0)
    assert not lab.s.set_node_pools(0, old, [0])
    assert not lab.s.set_node_state(0, old, core.UP)
    assert not lab.s.set_node_slots(0, old, 3)
    assert not lab.s.set_node_load(0, old, 0.5, 1)
    assert not lab.s.remove_node(0, old)
    assert lab.s.node(old) == {}
