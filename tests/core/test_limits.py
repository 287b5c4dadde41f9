"""Everything has a limit, a handle names one request, and a caller's mistake is an exception that names it."""

import threading

import pytest

from fairlead.core import scheduler as core
from fairlead.core.heap import IndexedHeap

from .lab import Lab


def test_full_is_an_answer_and_not_an_exception(make):
    lab = Lab(make(waiting_max=2))
    lab.submit("Z")
    lab.drain()
    assert [lab.submit(name) > 0 for name in ("A1", "A2")] == [True, True]
    assert lab.submit("A3") == core.QUEUE_FULL
    counters = lab.s.counters()
    assert (counters["received"], counters["refused"], counters["refused_queue_full"]) == (4, 1, 1)


def test_a_user_has_a_limit_of_its_own(make):
    lab = Lab(make())
    lab.submit("Z")
    lab.drain()
    lab.many("A1 A2", limit=2)
    assert lab.submit("A3", limit=2) == core.USER_QUEUE_FULL
    assert lab.submit("B1", limit=2) > 0


def test_waiting_bodies_have_a_limit_together(make):
    lab = Lab(make(waiting_bytes_max=100))
    lab.submit("Z", size=100)
    lab.drain()  # what runs does not count
    assert lab.submit("A1", size=60) > 0
    assert lab.submit("B1", size=41) == core.BYTES_FULL
    assert lab.submit("B1", size=40) > 0
    assert lab.s.counters()["waiting_bytes"] == 100


def test_what_can_start_at_once_is_never_refused(make):
    lab = Lab(make(waiting_max=0, waiting_bytes_max=0), slots=(2,))
    assert lab.submit("A1", size=5) > 0
    assert lab.drain() == ["A1"]
    assert lab.submit("B1", size=5) > 0
    assert lab.submit("C1") == core.QUEUE_FULL  # B1 has not been dispatched yet, and may take the last slot
    assert lab.drain() == ["B1"]
    assert lab.submit("C1") == core.QUEUE_FULL


def test_a_full_queue_for_one_pool_does_not_refuse_another_that_is_idle(make):
    lab = Lab(make(waiting_max=1), slots=(), pools=2)
    lab.node(1, [0])
    lab.node(1, [1])
    lab.many("A1 A2", pool=0)
    lab.drain()
    lab.submit("A2", pool=0)
    assert lab.submit("A3", pool=0) == core.QUEUE_FULL
    assert lab.submit("B1", pool=1) > 0
    assert lab.drain() == ["B1"]


def test_a_refused_request_changes_nothing_but_the_count(make):
    lab = Lab(make(waiting_max=1))
    lab.many("Z", weight=1)
    lab.drain()
    lab.submit("A1", weight=2, cap=3)
    assert lab.submit("A2", weight=9, cap=1) == core.QUEUE_FULL
    assert lab.s.user(0, ord("A"))["weight"] == 2


def test_no_more_run_than_may(make):
    lab = Lab(make(running_max=2), slots=(4,))
    lab.many("A1 B1 C1")
    assert lab.drain() == ["A1", "B1"]
    lab.finish("A1")
    assert lab.drain() == ["C1"]


def test_decisions_come_in_pages(make):
    lab = Lab(make(decisions_max=2), slots=(9,))
    lab.many("A1 A2 A3", deadline=5)
    lab.many("B1 B2")
    lab.now = 5
    assert lab.drain() == ["!A1", "!A2"]
    assert lab.drain() == ["!A3", "B1"]
    assert lab.drain() == ["B2"]
    assert lab.drain() == []


def test_nothing_is_dispatched_while_something_due_has_not_been_told(make):
    lab = Lab(make(decisions_max=1), slots=(9,))
    lab.many("A1 B1", deadline=5)
    lab.now = 5
    assert [lab.drain(), lab.drain(), lab.drain()] == [["!A1"], ["!B1"], []]
    assert lab.s.counters()["dispatched"] == 0


def test_position_counts_turns_and_not_requests(make):
    lab = Lab(make())
    lab.submit("Z")
    lab.drain()
    for i in range(50):
        lab.submit(f"A{i}")
    lab.submit("B1")
    lab.submit("B2")
    assert lab.s.position(lab.handles["B1"]) == 2  # 1 x (1 + 1) / 1
    assert lab.s.position(lab.handles["B2"]) == 4
    assert lab.s.position(lab.handles["A49"]) == 52  # all that wait
    assert lab.s.position(lab.handles["A0"]) == 2
    lab.submit("C1", weight=3)
    assert lab.s.position(lab.handles["C1"]) == 2  # ceil(1 x (1 + 1 + 3) / 3)
    assert lab.s.position(lab.handles["Z"]) == 0


def test_a_spent_handle_is_refused_everywhere(make):
    lab = Lab(make())
    lab.many("A1 B1")
    lab.drain()
    a, b = lab.handles["A1"], lab.handles["B1"]
    assert lab.s.finish(0, a, core.COMPLETED, 1)
    assert lab.s.cancel(0, b)
    before = lab.s.counters()
    for handle in (a, b, 0, -1, 1 << 40, (1 << 62) + 5):
        assert not lab.s.finish(0, handle, core.COMPLETED, 1)
        assert not lab.s.cancel(0, handle)
        assert not lab.s.requeue(0, handle)
        assert not lab.s.move(0, handle, 0)
        assert lab.s.position(handle) == 0
    assert lab.s.counters() == before


def test_a_handle_in_the_wrong_state_is_refused(make):
    lab = Lab(make())
    lab.many("A1 B1")
    lab.drain()
    running, waiting = lab.handles["A1"], lab.handles["B1"]
    assert not lab.s.cancel(0, running)
    assert not lab.s.move(0, running, 0)
    assert not lab.s.finish(0, waiting, core.COMPLETED, 1)
    assert not lab.s.requeue(0, waiting)


def test_a_slot_that_is_used_again_has_another_handle(only_core):
    lab = Lab(only_core(waiting_max=0, running_max=1))
    seen = set()
    for _ in range(1000):
        handle = lab.submit("A1")
        lab.drain()
        lab.finish("A1")
        assert handle & 0xFFFFFFFF == 0
        seen.add(handle)
    assert len(seen) == 1000


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"waiting_max": -1}, "waiting_max is -1"),
        ({"running_max": 0}, "running_max is 0"),
        ({"flows_max": 5}, "flows_max is 5"),
        ({"nodes_max": 0}, "nodes_max is 0"),
        ({"pools_max": 5000}, "pools_max is 5000"),
        ({"decisions_max": 0}, "decisions_max is 0"),
        ({"order": 7}, "order is 7"),
        ({"routing": 4}, "routing is 4"),
        ({"gpu_weight": -0.1}, "gpu_weight is -0.1"),
        ({"queue_weight": float("nan")}, "queue_weight is nan"),
        ({"no_node_wait_ns": -5}, "no_node_wait_ns is -5"),
        ({"waiting_max": 1 << 70}, "waiting_max is 1180591620717411303424"),
    ],
)
def test_a_limit_out_of_range_is_named(limits, named):
    with pytest.raises(ValueError, match=named):
        core.Scheduler(**{"waiting_max": 10, "running_max": 10} | limits)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 3, 1, 1, 1, 1, 0, 9, 0, 0), "pool is 3"),
        ((0, -1, 1, 1, 1, 1, 0, 9, 0, 0), "pool is -1"),
        ((0, 0, 1, 0, 1, 1, 0, 9, 0, 0), "weight is 0"),
        ((0, 0, 1, 1 << 21, 1, 1, 0, 9, 0, 0), "weight is 2097152"),
        ((0, 0, 1, 1, -1, 1, 0, 9, 0, 0), "cost is -1"),
        ((0, 0, 1, 1, 1 << 31, 1, 0, 9, 0, 0), "cost is 2147483648"),
        ((0, 0, 1, 1, 1, 0, 0, 9, 0, 0), "width is 0"),
        ((0, 0, 1, 1, 1, 1 << 15, 0, 9, 0, 0), "width is 32768"),
        ((0, 0, 1, 1, 1, 1, -2, 9, 0, 0), "size_bytes is -2"),
        ((0, 0, 1, 1, 1, 1, 0, 9, -3, 0), "user_running_max is -3"),
        ((0, 0, 1, 1, 1, 1, 0, 9, 0, -4), "user_waiting_max is -4"),
    ],
)
def test_a_bad_argument_is_named_and_changes_nothing(only_core, arguments, named):
    scheduler = only_core()
    scheduler.add_pool(0)
    with pytest.raises(ValueError, match=named):
        scheduler.submit(*arguments)
    assert scheduler.counters()["received"] == 0


def test_bad_arguments_of_the_other_entries_are_named(only_core):
    lab = Lab(only_core(pools_max=1, nodes_max=1))
    handle = lab.submit("A1")
    lab.drain()
    for call, named in (
        (lambda: lab.s.finish(0, handle, 4, 1), "outcome is 4"),
        (lambda: lab.s.finish(0, handle, 1, -1), "cost is -1"),
        (lambda: lab.s.add_pool(0), "pools_max"),
        (lambda: lab.s.add_node(0, 1), "nodes_max"),
        (lambda: lab.s.remove_pool(0, 0), "1 running"),
        (lambda: lab.s.set_node_pools(0, lab.nodes[0], [0, 9]), "pool is 9"),
        (lambda: lab.s.set_node_state(0, lab.nodes[0], 3), "state is 3"),
        (lambda: lab.s.set_node_slots(0, lab.nodes[0], -1), "slots is -1"),
        (lambda: lab.s.set_node_load(0, lab.nodes[0], float("nan"), 0), "NaN"),
        (lambda: lab.s.set_node_load(0, lab.nodes[0], 0.5, -1), "others is -1"),
        (lambda: lab.s.move(0, handle, 7), "group is 7"),
        (lambda: lab.s.position_if(7, 1, 1, 9), "group is 7"),
        (lambda: lab.s.position_if(0, 1, 0, 9), "weight is 0"),
    ):
        with pytest.raises(ValueError, match=named):
            call()
    assert lab.s.node(lab.nodes[0])["running"] == 1


def test_a_user_key_is_64_bits(only_core):
    lab = Lab(only_core())
    assert lab.s.submit(0, 0, 2**64 - 1, 1, 1, 1, 0, 9, 0, 0) > 0
    for key in (-1, 2**64):
        with pytest.raises(OverflowError):
            lab.s.submit(0, 0, key, 1, 1, 1, 0, 9, 0, 0)


def test_time_does_not_go_back(make):
    scheduler = make()
    scheduler.add_pool(100)
    with pytest.raises(ValueError, match="now_ns is 99"):
        scheduler.drain(99)
    assert scheduler.drain(100) == []  # standing still is fine


def test_another_thread_is_refused(only_core):
    scheduler = only_core()
    errors = []

    def other():
        try:
            scheduler.drain(0)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors == ["the scheduler belongs to the thread that made it: one loop, one scheduler"]


def test_a_pool_that_is_removed_frees_its_place(make):
    scheduler = make(pools_max=1)
    for _ in range(3):
        scheduler.remove_pool(0, scheduler.add_pool(0))


def test_when_the_table_of_users_is_full_one_that_idles_is_forgotten(only_core):
    """More users with debt than places: the one that owes least goes, and nothing else happens."""
    lab = Lab(only_core(waiting_max=2, running_max=2, flows_max=5), slots=(1,))
    lab.submit("Z", cost=1000)  # keeps the pool from being wholly idle
    lab.drain()
    lab.s.set_node_slots(0, lab.nodes[0], 2)
    for i in range(50):
        assert lab.s.submit(0, 0, 1000 + i, 1, 5 + i, 1, 0, core.NEVER, 0, 0) > 0
        ((kind, handle, _),) = lab.s.drain(0)
        assert kind == core.DISPATCHED
        assert lab.s.finish(0, handle, core.COMPLETED, 5 + i)
        lab.s.check()
        assert lab.s.counters()["flows"] <= 5


def test_a_heap_refuses_what_it_can_not_hold():
    heap = IndexedHeap(3)
    heap.push(5, 0)
    for call, error in (
        (lambda: heap.push(1, 3), IndexError),
        (lambda: heap.push(1, -1), IndexError),
        (lambda: heap.push(1, 0), ValueError),
        (lambda: heap.update(1, 1), ValueError),
        (lambda: IndexedHeap(0), ValueError),
    ):
        with pytest.raises(error):
            call()
    assert not heap.remove(2)
    assert heap.top() == (5, 0)


def test_a_heap_keeps_equal_keys_in_order():
    heap = IndexedHeap(8)
    for item in (3, 1, 2):
        heap.push(7, item)
    heap.update(7, 3)
    assert heap.pop_due(6) == []
    assert heap.pop_due(7) == [1, 2, 3]
    assert heap.top() is None
    assert len(heap) == 0
    assert 1 not in heap


def test_debts_beyond_all_measure_stay_within_bounds(only_core):
    """A thousand running requests that turn out to have cost the most there is: no number overflows, all goes on."""
    lab = Lab(only_core(running_max=10_000, waiting_max=10_000), slots=(10_000,))
    names = [f"A{i}" for i in range(5000)]
    lab.many(" ".join(names), cost=0)
    while lab.drain():
        pass
    for name in names:
        lab.finish(name, core.COST_MAX)
        if name != names[-1]:
            assert 0 < lab.s.user(0, ord("A"))["virtual_start"] <= 1 << 61
    lab.submit("B1", weight=core.WEIGHT_MAX)
    lab.submit("A0")
    assert lab.drain() == ["B1", "A0"]


def test_who_is_passed_by_many_zeros_falls_no_lower_than_the_bound(only_core):
    """A's only request runs while B's cost the most there is: after each, virtual time is set back to 0, and A's start
    with it, further from 0 each time: 2**61 / (COST_MAX x VIRTUAL_UNIT) = 1489.8 times until it is at the bound."""
    lab = Lab(only_core(waiting_max=2, running_max=2, flows_max=5, rebase_at=1), slots=(2,))
    lab.submit("A1", cost=0)
    assert lab.drain() == ["A1"]
    # B's first charge is still ahead of virtual time: A falls with the second, and is below the bound with the 1491st.
    starts = {}
    for number in range(1, 1500):
        lab.submit("B", cost=core.COST_MAX)
        assert lab.drain() == ["B"]
        lab.finish("B", core.COST_MAX)
        starts[number] = lab.s.user(0, ord("A"))["virtual_start"]
    step = core.COST_MAX * core.VIRTUAL_UNIT
    assert [starts[number] for number in (1, 2, 1490)] == [0, -step, -1489 * step]
    assert starts[1491] == starts[1499] == -(1 << 61)
    lab.many("A2 B2")
    lab.finish("A1", 0)
    assert lab.drain() == ["A2", "B2"]
    assert lab.start("A") == 1 - core.COST_MAX  # it came back at the present, and then B's turn has moved the zero


def test_positions_do_not_overflow(only_core):
    lab = Lab(only_core())
    lab.submit("Z")
    lab.drain()
    for i in range(600):
        lab.submit(chr(1000 + i) + "1", weight=core.WEIGHT_MAX)
    for i in range(300):
        lab.submit(f"A{i}", weight=1)
    assert lab.s.position(lab.handles["A299"]) == 900
    assert lab.s.position(lab.handles["A0"]) == 900
