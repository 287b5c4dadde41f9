"""Where a request goes: examples of the choice between nodes."""

import hashlib

import pytest

from fairlead.core import scheduler as core

from .lab import Lab

GOLDEN = "ce7f6e1f8c4bc3821db4f303ef4dfbd2b1269902f7784d7fb482df75affd212d"


def test_score_raw_is_the_reference_formula_bit_for_bit(make):
    scheduler = make(routing=core.SCORE_RAW)
    node = scheduler.add_node(0, 1)
    values = []
    for gpu in range(101):
        for queue in range(64):
            scheduler.set_node_load(0, node, gpu / 100, queue)
            values.append(scheduler.node(node)["score"])
    assert hashlib.sha256(",".join(map(str, values)).encode()).hexdigest() == GOLDEN


@pytest.mark.parametrize(("gpu", "queue", "score"), [(0.0, 3, 20), (0.4, 3, 33), (1.0, 0, 30), (-1.0, 0, 15)])
def test_score_raw_by_hand(make, gpu, queue, score):
    scheduler = make(routing=core.SCORE_RAW)
    node = scheduler.add_node(0, 1)
    scheduler.set_node_load(0, node, gpu, queue)
    assert scheduler.node(node)["score"] == score


@pytest.mark.parametrize(
    ("gpu", "others", "score"),
    [
        (0.0, 0, 0.0),
        (1.0, 0, 0.3),
        (-1.0, 0, 0.15),
        (0.5, 2, 0.15 + 0.35),
        (0.5, 4, 0.85),
        (0.5, 40, 0.85),
        (7, 0, 0.3),
    ],
)
def test_score_is_three_tenths_gpu_and_seven_tenths_queue(make, gpu, others, score):
    scheduler = make()
    node = scheduler.add_node(0, 4)
    scheduler.set_node_load(0, node, gpu, others)
    assert scheduler.node(node)["score"] == round(score * 1e9)


def test_a_node_with_a_full_cache_loses_to_one_with_an_empty_one(make):
    lab = Lab(make(), slots=(4, 4))
    lab.s.set_node_load(0, lab.nodes[0], 0.9, 0)
    lab.s.set_node_load(0, lab.nodes[1], 0.1, 0)
    lab.submit("A1")
    lab.drain()
    assert lab.where["A1"] == lab.nodes[1]


def test_a_node_that_tells_nothing_is_half_loaded(make):
    lab = Lab(make(), slots=(4, 4, 4))
    lab.s.set_node_load(0, lab.nodes[0], 0.6, 0)
    lab.s.set_node_load(0, lab.nodes[2], 0.4, 0)
    lab.many("A1 A2 A3")
    lab.drain()
    assert lab.where["A1"] == lab.nodes[2]


@pytest.mark.parametrize("routing", [core.SCORE, core.SCORE_RAW, core.LEAST_LOADED])
def test_idle_nodes_take_turns(make, routing):
    """Twelve requests one after another over four nodes, of which one drains every other request by itself."""
    lab = Lab(make(routing=routing), slots=(8, 8, 8, 8))
    counts = dict.fromkeys(lab.nodes, 0)
    for i in range(12):
        lab.submit(f"A{i}")
        lab.drain()
        counts[lab.where[f"A{i}"]] += 1
        lab.finish(f"A{i}")
    assert list(counts.values()) == [3, 3, 3, 3]


def test_frozen_reports_make_no_herd(make):
    lab = Lab(make(), slots=(16,) * 8)
    for i in range(64):
        lab.submit(f"A{i}")
        lab.drain()
    running = [lab.s.node(node)["running"] for node in lab.nodes]
    assert max(running) - min(running) <= 1


def test_small_and_large_nodes_fill_in_proportion(make):
    lab = Lab(make(), slots=(8, 64))
    for i in range(36):
        lab.submit(f"A{i}")
        lab.drain()
    assert [lab.s.node(node)["running"] for node in lab.nodes] == [4, 32]


def test_work_from_elsewhere_counts_as_queue(make):
    lab = Lab(make(), slots=(4, 4))
    lab.s.set_node_load(0, lab.nodes[0], 0.5, 3)
    lab.s.set_node_load(0, lab.nodes[1], 0.5, 0)
    lab.many("A1 A2 A3")
    lab.drain()
    assert [lab.where[name] for name in ("A1", "A2", "A3")] == [lab.nodes[1]] * 3


@pytest.mark.parametrize("state", [core.DOWN, core.DRAINING])
def test_only_nodes_that_are_up_get_work(make, state):
    lab = Lab(make(), slots=(4, 4))
    lab.s.set_node_state(0, lab.nodes[0], state)
    lab.many("A1 A2 A3")
    lab.drain()
    assert set(lab.where.values()) == {lab.nodes[1]}


def test_only_nodes_of_the_pool_get_work(make):
    lab = Lab(make(), slots=(), pools=2)
    nodes = [lab.node(4, [0]), lab.node(4, [1])]
    lab.many("A1 A2", pool=0)
    lab.submit("B1", pool=1)
    lab.drain()
    assert [lab.where[name] for name in ("A1", "A2", "B1")] == [nodes[0], nodes[0], nodes[1]]


def test_a_request_that_came_back_avoids_its_nodes_while_another_is_open(make):
    lab = Lab(make(), slots=(1, 1, 1))
    lab.submit("A1")
    seen = []
    for _ in range(4):
        lab.running.clear()
        lab.drain()
        seen.append(lab.where["A1"])
        assert lab.s.requeue(0, lab.handles["A1"])
    assert len(set(seen[:3])) == 3
    assert seen[3] == seen[0]  # the last two are remembered


def test_it_goes_back_to_its_node_if_that_is_the_only_one(make):
    lab = Lab(make())
    lab.submit("A1")
    lab.drain()
    assert lab.s.requeue(0, lab.handles["A1"])
    lab.running.clear()
    assert lab.drain() == ["A1"]


def test_a_node_of_the_same_name_is_another_generation(make):
    lab = Lab(make())
    lab.submit("A1")
    lab.drain()
    old = lab.nodes[0]
    assert lab.s.remove_node(0, old)
    new = lab.node(1)
    assert new != old
    assert lab.s.node(old) == {}
    assert not lab.s.set_node_slots(0, old, 5)
    lab.submit("B1")
    assert lab.drain() == ["B1"]
    lab.finish("A1")  # a lease on the old one
    assert lab.s.node(new)["running"] == 1


def test_fewer_slots_take_nothing_away(make):
    lab = Lab(make(), slots=(3,))
    lab.many("A1 A2 A3 A4")
    assert lab.drain() == ["A1", "A2", "A3"]
    lab.s.set_node_slots(0, lab.nodes[0], 1)
    lab.finish("A1")
    lab.finish("A2")
    assert lab.drain() == []
    lab.finish("A3")
    assert lab.drain() == ["A4"]


def test_without_a_usable_node_requests_wait_for_a_while(make):
    lab = Lab(make(no_node_wait_ns=10))
    lab.s.set_node_state(0, lab.nodes[0], core.DOWN)
    lab.submit("A1", deadline=100)
    lab.now = 4
    lab.submit("B1", deadline=100)
    lab.submit("C1", deadline=8)
    lab.now = 8
    assert lab.drain() == ["!C1"]
    lab.now = 10
    assert lab.drain() == ["?A1"]
    lab.s.set_node_state(10, lab.nodes[0], core.UP)
    assert lab.drain() == ["B1"]
    assert lab.s.counters()["no_node"] == 1


def test_the_wait_for_a_node_counts_from_the_loss_of_the_last_one(make):
    lab = Lab(make(no_node_wait_ns=10), slots=(1,))
    lab.many("A1 A2", deadline=100)
    assert lab.drain() == ["A1"]
    lab.now = 50
    lab.s.set_node_state(50, lab.nodes[0], core.DOWN)
    assert lab.s.next_deadline_ns() == 60
    lab.now = 59
    assert lab.drain() == []
    lab.s.set_node_state(59, lab.nodes[0], core.UP)
    assert lab.s.next_deadline_ns() == 100


def test_draining_the_last_node_is_losing_it(make):
    lab = Lab(make(no_node_wait_ns=10))
    lab.s.set_node_state(0, lab.nodes[0], core.DRAINING)
    lab.submit("A1")
    lab.now = 10
    assert lab.drain() == ["?A1"]


def test_two_random_choices_follow_the_seed_and_take_the_better_one(only_core):
    def nodes(seed):
        lab = Lab(only_core(routing=core.P2C, seed=seed), slots=(50, 50, 50, 50))
        lab.s.set_node_load(0, lab.nodes[0], 0.0, 49)
        for i in range(60):
            lab.submit(f"A{i}")
            lab.drain()
        return [lab.nodes.index(lab.where[f"A{i}"]) for i in range(60)]

    assert nodes(7) == nodes(7)
    assert nodes(7) != nodes(8)
    assert 0 not in nodes(7)  # the worst of four never wins against a second one
    assert {1, 2, 3} == set(nodes(7))


def test_who_comes_to_a_pool_that_was_down_for_long_waits_its_time_there(make):
    lab = Lab(make(no_node_wait_ns=10), slots=(), pools=2)
    node = lab.node(1, [0])
    lab.many("A1 B1", pool=0)
    assert lab.drain() == ["A1"]
    lab.now = 100  # pool 1 has been without a node all the time
    assert lab.s.move(100, lab.handles["B1"], 1)
    assert lab.s.next_deadline_ns() == 110
    assert lab.drain() == []
    lab.s.set_node_state(100, node, core.DOWN)
    lab.now = 200
    assert lab.s.requeue(200, lab.handles["A1"])
    assert lab.s.next_deadline_ns() == 110
    assert lab.drain() == ["?B1"]
    assert lab.s.next_deadline_ns() == 210
