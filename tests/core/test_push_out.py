"""A full waiting room: who gives way to whom, worked out by hand, on the core and on the model."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from core.lab import Lab
from fairlead.core import scheduler as core


def room(make, **limits):
    return Lab(make(**{"waiting_max": 6, "running_max": 1, "overflow": core.PUSH_OUT} | limits), slots=(1,), up=False)


def out(lab):
    return [lab.names[handle] for kind, handle, _ in lab.s.drain(lab.now) if kind == core.PUSHED_OUT]


def test_a_flooder_fills_the_room_and_its_newest_give_way(make):
    lab = room(make)
    lab.many("A1 A2 A3 A4 A5 A6")
    assert lab.submit("A7") == core.QUEUE_FULL  # its share is all of the room, and it has that
    gone = []
    for name in ("B1", "C1", "B2", "C2", "B3"):
        answer = lab.submit(name)
        gone += out(lab)
        # With three users the share is two: B3 would be B's third.
        assert (answer == core.QUEUE_FULL) == (name == "B3")
    assert gone == ["A6", "A5", "A4", "A3"]
    assert lab.submit("A8") == core.QUEUE_FULL  # A has two, which is its share
    lab.s.check()


def test_weights_divide_the_room_and_the_furthest_above_in_proportion_gives_way(make):
    lab = room(make)
    lab.many("A1 A2 A3 A4", weight=4)
    lab.many("B1 B2", weight=1)
    assert lab.submit("C1", weight=1) > 0  # A has 4 / 4, B has 2 / 1
    assert out(lab) == ["B2"]
    assert lab.submit("A5", weight=4) == core.QUEUE_FULL  # its share is 6 x 4 / 6


def test_ties_give_way_in_the_order_of_the_latest_comer(make):
    lab = room(make)
    lab.many("A1 B1 A2 B2 A3 B3")
    assert lab.submit("C1") > 0
    assert out(lab) == ["B3"]


def test_bytes_have_shares_too_and_as_many_go_as_must(make):
    lab = room(make, waiting_max=100, waiting_bytes_max=100)
    lab.many("A1 A2 A3 A4", size=20)
    lab.submit("B1", size=20)
    assert lab.submit("C1", size=34) == core.BYTES_FULL  # its share is 100 / 3
    assert out(lab) == []
    assert lab.submit("C1", size=33) > 0
    assert out(lab) == ["A4", "A3"]
    assert lab.s.counters()["waiting_bytes"] == 93


def test_cancelling_what_was_pushed_out_says_nothing_twice(make):
    lab = room(make, waiting_max=2)
    lab.many("A1 A2 B1")
    assert lab.s.counters()["pushed_out"] == 1
    assert lab.s.cancel(0, lab.handles["A2"])
    assert not lab.s.cancel(0, lab.handles["A2"])
    assert out(lab) == []
    counters = lab.s.counters()
    assert (counters["pushed_out"], counters["cancelled"], counters["waiting"]) == (1, 0, 2)
    lab.s.check()


def three_give_way(make, **limits):
    """A5, A4 and A3 have given way to B1, which needs half of the bytes."""
    lab = room(make, **{"waiting_max": 100, "waiting_bytes_max": 100} | limits)
    lab.many("A1 A2 A3 A4 A5", size=20)
    assert lab.submit("B1", size=50) > 0
    assert lab.s.counters()["pushed_out"] == 3
    return lab


def test_what_gave_way_is_reported_before_anything_starts_as_much_at_a_time_as_fits(make):
    lab = three_give_way(make, decisions_max=2)
    lab.s.set_node_state(0, lab.nodes[0], core.UP)
    assert out(lab) == ["A5", "A4"]
    decisions = lab.s.drain(0)
    assert [(kind, lab.names[handle]) for kind, handle, _ in decisions] == [
        (core.PUSHED_OUT, "A3"),
        (core.DISPATCHED, "A1"),
    ]


@pytest.mark.parametrize(("cancelled", "told"), [("A5", "A4 A3"), ("A4", "A5 A3"), ("A3", "A5 A4")])
def test_of_those_that_gave_way_one_is_cancelled_and_the_others_are_reported_in_order(make, cancelled, told):
    lab = three_give_way(make)
    assert lab.s.cancel(0, lab.handles[cancelled])
    lab.s.check()
    assert out(lab) == told.split()
    counters = lab.s.counters()
    assert (counters["pushed_out"], counters["cancelled"], counters["waiting"]) == (3, 0, 3)


def test_who_must_not_wait_at_all_is_refused_as_before(make):
    lab = room(make, waiting_max=2)
    lab.many("A1 A2")
    assert lab.submit("B1", limit=1) > 0
    assert lab.submit("B2", limit=1) == core.USER_QUEUE_FULL
    strict = room(make, waiting_max=2, overflow=core.REJECT)
    strict.many("A1 A2")
    assert strict.submit("B1") == core.QUEUE_FULL


def test_weights_change_who_is_furthest_above(make):
    lab = room(make)
    lab.many("A1 A2 A3 B1 B2", weight=1)
    lab.submit("C1", weight=1)
    lab.submit("D1", weight=1)  # from here on it is crowded
    assert out(lab) == ["A3"]
    lab.s.cancel(0, lab.handles["C1"])
    lab.submit("A4", weight=8)  # A has 3 / 8 now, B 2 / 1
    lab.submit("E1", weight=1)
    assert out(lab) == ["B2"]


def test_more_bytes_than_the_order_can_tell_apart_are_equal(only_core):
    size = (1 << 31) - 1
    lab = room(only_core, waiting_max=5_000, waiting_bytes_max=4_200 * size)
    lab.many(" ".join(f"A{k}" for k in range(4_200)), size=size)
    assert lab.submit("B1", size=size) > 0
    assert out(lab) == ["A4199"]


def test_an_emptied_room_is_not_crowded_any_more(make):
    lab = room(make, waiting_max=2)
    for _ in range(2):
        lab.many("A1 A2 B1")
        assert out(lab) == ["A2"]
        assert lab.s.cancel(0, lab.handles["A1"]) and lab.s.cancel(0, lab.handles["B1"])
        lab.s.check()


def test_who_may_not_wait_pushes_nobody_out(make):
    lab = room(make, waiting_max=2)
    lab.many("A1 A2")
    assert lab.submit("B1", limit=core.NEVER_WAIT) == core.QUEUE_FULL
    assert lab.s.counters()["pushed_out"] == 0


def test_a_user_below_its_share_is_never_refused_whatever_the_others_do():
    """The law itself, on long random histories with weights, many users, departures and requests that come back."""
    asked = 0
    for seed in range(20):
        rng = random.Random(seed)
        size = rng.choice([3, 20, 100])
        s = core.Scheduler(waiting_max=size, running_max=8, overflow=core.PUSH_OUT)
        pool = s.add_pool(0)
        node = s.add_node(0, 4)
        s.set_node_pools(0, node, [pool])
        s.set_node_state(0, node, core.UP)
        weights = [rng.choice([1, 1, 2, 5, 100]) for _ in range(rng.choice([2, 10, 150]))]
        waiting: dict[int, int] = {}  # handle -> user
        running: list[int] = []
        for _ in range(3_000):
            user = min(rng.randrange(len(weights)), rng.randrange(len(weights)))
            mine = sum(each == user for each in waiting.values())
            total = sum(weights[each] for each in {*waiting.values(), user})
            below = mine < Fraction(size * weights[user], total)
            answer = s.submit(0, pool, user, weights[user], 1, 1, 10, core.NEVER, 0, 0)
            assert answer > 0 or not below, f"seed {seed}: user {user} has {mine} of {size} and was refused"
            asked += below and len(waiting) >= size
            if answer > 0:
                waiting[answer] = user
            for kind, handle, _ in s.drain(0):
                waiting.pop(handle)
                if kind == core.DISPATCHED:
                    running.append(handle)
            action = rng.random()
            if action < 0.2 and running:
                s.finish(0, running.pop(rng.randrange(len(running))), core.COMPLETED, 1)
            elif action < 0.25 and waiting:
                handle = rng.choice(list(waiting))
                assert s.cancel(0, handle)
                del waiting[handle]
        s.check()
    assert asked > 2_000, "the room was seldom full: this tries too little"
