"""Who goes next: small examples, worked out by hand, one slot and unit cost unless they say otherwise."""

import pytest

from fairlead.core import scheduler as core

from .lab import Lab


def busy(make, order=core.FAIR, **limits):
    """One node with one slot, busy with somebody else's request."""
    lab = Lab(make(order=order, **limits))
    lab.submit("Z")
    assert lab.drain() == ["Z"]
    return lab


def queue(user, numbers):
    return " ".join(f"{user}{i}" for i in numbers)


ORDERS = [
    ("A1 A2 A3 A4 A5 B1 B2", "A1 B1 A2 B2 A3 A4 A5"),
    ("B1 B2 A1 A2 A3 A4 A5", "B1 A1 B2 A2 A3 A4 A5"),
    ("A1 A2 A3 B1 B2 B3 C1 C2 C3", "A1 B1 C1 A2 B2 C2 A3 B3 C3"),
]


@pytest.mark.parametrize(("arrivals", "fair"), ORDERS)
def test_users_take_turns(make, arrivals, fair):
    lab = busy(make)
    lab.many(arrivals)
    assert lab.serve() == fair


@pytest.mark.parametrize("arrivals", [arrivals for arrivals, _ in ORDERS])
def test_fifo_keeps_the_order_of_arrival(make, arrivals):
    lab = busy(make, core.FIFO)
    lab.many(arrivals)
    assert lab.serve() == arrivals


def test_fifo_knows_neither_weights_nor_costs_nor_who_joined_late(make):
    lab = busy(make, core.FIFO)
    lab.many("A1 A2 A3", weight=3, cost=4)
    lab.many("B1 B2")
    lab.finish("Z")
    assert lab.drain() == ["A1"]
    lab.many("C1 A4 B3")
    assert lab.serve() == "A2 A3 B1 B2 C1 A4 B3"


def test_fifo_closes_up_behind_cancelled_requests(make):
    lab = busy(make, core.FIFO)
    lab.many("A1 A2 A3 A4 B1 B2 B3")
    lab.finish("Z")
    assert lab.drain() == ["A1"]
    for name in ("A2", "B1"):
        assert lab.s.cancel(0, lab.handles[name])
    assert lab.serve() == "A3 A4 B2 B3"


def test_a_request_that_started_at_once_counts_as_a_turn(make):
    lab = Lab(make())
    lab.submit("A1")
    assert lab.drain() == ["A1"]
    lab.many("A2 A3 A4 A5 B1 B2")
    assert lab.serve() == "B1 A2 B2 A3 A4 A5"


def test_weights_share_in_proportion(make):
    lab = busy(make)
    lab.many(queue("A", range(1, 7)), weight=3)
    lab.many("B1 B2 B3")
    assert lab.serve() == "A1 B1 A2 A3 B2 A4 A5 A6 B3"


def test_weights_two_one_one(make):
    lab = busy(make)
    lab.many("A1 A2 A3 A4", weight=2)
    lab.many("B1 B2 C1 C2")
    assert lab.serve() == "A1 B1 C1 A2 B2 C2 A3 A4"


def test_a_dear_request_costs_turns(make):
    lab = busy(make)
    lab.many("A1 A2 A3", cost=4)
    lab.many(queue("B", range(1, 9)))
    assert lab.serve(cost=lambda name: 4 if name[0] == "A" else 1) == "A1 B1 B2 B3 B4 A2 B5 B6 B7 B8 A3"


def test_only_the_dear_one_costs_turns(make):
    lab = busy(make)
    lab.submit("A1", cost=3)
    lab.many("A2 A3 B1 B2 B3")
    assert lab.serve(cost=lambda name: 3 if name == "A1" else 1) == "A1 B1 B2 B3 A2 A3"


def test_a_joiner_enters_the_present_round(make):
    lab = Lab(make(), slots=(1,))
    lab.submit("Z")
    lab.drain()
    lab.many("A1 A2 A3 A4 B1 B2 B3 B4")
    lab.finish("Z")
    assert lab.drain() == ["A1"]
    lab.finish("A1")
    assert lab.drain() == ["B1"]
    lab.many("C1 C2")
    assert lab.serve() == "C1 A2 B2 C2 A3 B3 A4 B4"


def test_cancelled_requests_cost_nothing_and_leave_at_once(make):
    lab = busy(make)
    lab.many("A1 A2 A3 A4 B1 B2 B3")
    lab.finish("Z")
    assert lab.drain() == ["A1"]
    for name in ("A2", "B1"):
        assert lab.s.cancel(0, lab.handles[name])
    assert lab.s.counters()["waiting"] == 4
    assert lab.serve() == "B2 A3 B3 A4"


def test_idle_user_earns_no_credit(make):
    lab = busy(make)
    lab.many("A1 A2 A3 A4 B1")
    lab.finish("Z")
    for expected in ("A1", "B1", "A2", "A3"):
        assert lab.drain() == [expected]
        lab.finish(expected)
    lab.many("A5 A6 A7 A8 B2 B3 B4 B5")
    assert lab.serve() == "B2 A4 B3 A5 B4 A6 B5 A7 A8"


def tags(make, costs, estimate, names):
    """Serve with an estimate for all and the true cost of each user at the end; name@virtual start."""
    lab = busy(make)
    for name in names.split():
        lab.submit(name, cost=estimate)
    lab.finish("Z", cost=0)  # leave no trace of the one that kept the node busy
    out = []
    while lab.s.counters()["waiting"]:
        before = {user: lab.start(user) for user in costs if lab.s.user(0, ord(user))}
        (name,) = lab.drain()
        out.append(f"{name}@{before[name[0]]:.0f}")
        lab.finish(name, costs[name[0]])
    return " ".join(out)


def test_underestimates_are_paid_afterwards(make):
    names = queue("A", range(1, 5)) + " " + queue("B", range(1, 8))
    expected = "A1@0 B1@0 B2@2 B3@4 B4@6 B5@8 A2@10 B6@10 B7@12 A3@20 A4@30"
    assert tags(make, {"A": 10, "B": 2}, 2, names) == expected


def test_overestimates_are_refunded(make):
    names = queue("A", range(1, 13)) + " B1 B2 B3"
    expected = "A1@0 B1@0 " + " ".join(f"A{i}@{i - 1}" for i in range(2, 11)) + " B2@10 A11@10 A12@11 B3@20"
    assert tags(make, {"A": 1, "B": 10}, 10, names) == expected


def test_a_users_limit_parks_it_and_leaves_the_slot_idle(make):
    lab = Lab(make(), slots=(2,))
    lab.many("A1 A2 A3 A4", cap=1)
    lab.many("B1 B2")
    assert lab.drain() == ["A1", "B1"]
    lab.finish("A1")
    assert lab.drain() == ["B2"]  # B had been charged once, and so had A; B's charge was first to be passed
    lab.finish("B1")
    assert lab.drain() == ["A2"]
    lab.finish("B2")
    assert lab.drain() == []  # one slot stays free: A is at its limit
    lab.finish("A2")
    assert lab.drain() == ["A3"]
    lab.finish("A3")
    assert lab.drain() == ["A4"]


def test_a_users_limit_counts_over_all_pools(make):
    lab = Lab(make(), slots=(4,), pools=2)
    lab.many("A1 A2", cap=2, pool=0)
    lab.many("A3 A4", cap=2, pool=1)
    assert len(lab.drain()) == 2
    lab.finish(lab.running[0])
    assert len(lab.drain()) == 1
    assert lab.s.counters()["running"] == 2


def test_raising_a_users_limit_lets_it_in_at_once(make):
    lab = Lab(make(), slots=(4,))
    lab.many("A1 A2 A3", cap=1)
    assert lab.drain() == ["A1"]
    lab.submit("A4", cap=3)
    assert lab.drain() == ["A2", "A3"]


def test_deadlines_expire_in_time_and_are_not_charged(make):
    lab = busy(make)
    lab.submit("A1", deadline=5)
    lab.submit("A2", deadline=20)
    lab.submit("B1", deadline=9)
    lab.submit("B2")
    assert lab.s.next_deadline_ns() == 5
    lab.now = 5
    assert lab.drain() == ["!A1"]  # exactly now is too late
    lab.now = 10
    lab.finish("Z")
    assert lab.drain() == ["!B1", "A2"]
    lab.finish("A2")
    assert lab.serve() == "B2"
    assert lab.s.counters()["expired"] == 2


def test_equal_deadlines_expire_in_the_order_of_arrival(make):
    lab = busy(make)
    lab.many("B1 A1 C1", deadline=7)
    lab.now = 7
    assert lab.drain() == ["!B1", "!A1", "!C1"]


def test_a_request_that_comes_back_is_next_and_uncharged(make):
    lab = Lab(make())
    lab.many("A1 A2 B1")
    assert lab.drain() == ["A1"]
    assert lab.s.requeue(0, lab.handles["A1"])
    lab.running.remove("A1")
    assert lab.start("A") == 0
    assert lab.serve() == "A1 B1 A2"


def test_requests_that_come_back_keep_their_order_among_themselves(make):
    lab = Lab(make(), slots=(2,))
    lab.many("A1 A2 A3")
    assert lab.drain() == ["A1", "A2"]
    for name in ("A1", "A2"):
        assert lab.s.requeue(0, lab.handles[name])
    lab.running.clear()
    assert lab.drain() == ["A1", "A2"]


def test_a_wide_request_needs_one_free_slot_and_occupies_all_of_its_own(make):
    lab = Lab(make(), slots=(4,))
    lab.submit("A1", width=3)
    lab.submit("B1", width=3)
    lab.submit("C1")
    assert lab.drain() == ["A1", "B1"]
    assert lab.s.node(lab.nodes[0])["running"] == 6
    lab.finish("A1")
    assert lab.drain() == ["C1"]
    assert lab.s.node(lab.nodes[0])["running"] == 4


def test_one_busy_pool_never_blocks_another(make):
    lab = Lab(make(), slots=(), pools=2)
    lab.node(1, [0])
    lab.node(1, [1])
    lab.many("A1 A2 A3", pool=0)
    lab.submit("B1", pool=1)
    assert lab.drain() == ["A1", "B1"]


def test_pools_that_share_a_node_take_turns(make):
    lab = Lab(make(), slots=(1,), pools=2)
    lab.submit("Z", pool=0)
    lab.drain()
    lab.many("A1 A2 A3", pool=0)
    lab.many("B1 B2 B3", pool=1)
    assert lab.serve() == "B1 A1 B2 A2 B3 A3"


def test_moved_requests_keep_their_place_and_their_users_debt(make):
    lab = Lab(make(), slots=(), pools=2)
    lab.node(1, [0])
    lab.node(1, [1])
    lab.many("Y1 Z1", cost=0)
    lab.submit("X1", pool=1, cost=0)
    lab.drain()
    lab.many("A1 A2", pool=0)
    lab.submit("A3", pool=1)
    assert lab.s.move(0, lab.handles["A2"], 1)
    assert lab.s.pool(1)["waiting"] == 2
    lab.finish("X1")
    assert lab.drain() == ["A2"]  # it is older than A3


def test_renamed_users_and_scaled_weights_change_no_order(make):
    orders = set()
    for names, scale in ((("A", "B", "C"), 1), (("Q", "C", "K"), 5)):
        lab = busy(make)
        for i in range(1, 6):
            for user, weight, cost in zip(names, (1, 2, 3), (3, 1, 2), strict=True):
                lab.submit(f"{user}{i}", weight=weight * scale, cost=cost)
        lab.finish("Z")
        order = lab.serve(cost=lambda name, names=names: (3, 1, 2)[names.index(name[0])])
        orders.add("".join(str(names.index(name[0])) for name in order.split()))
    assert len(orders) == 1


def test_moving_the_zero_of_virtual_time_changes_no_order(make):
    orders = set()
    for rebase_at in (1, 3 * core.VIRTUAL_UNIT, 1 << 60):
        lab = busy(make, rebase_at=rebase_at)
        for i in range(1, 9):
            lab.submit(f"A{i}", weight=3, cost=2)
            lab.submit(f"B{i}", weight=2, cost=5)
        orders.add(lab.serve(cost=lambda name: 4))
    assert len(orders) == 1


def test_when_nothing_waits_or_runs_all_debts_end(make):
    lab = Lab(make())
    lab.submit("A1", cost=1000)
    lab.drain()
    lab.finish("A1", 1000)
    assert lab.s.counters()["flows"] == 0
    lab.submit("Z")
    lab.drain()
    lab.many("A2 B1")
    assert lab.serve() == "A2 B1"
