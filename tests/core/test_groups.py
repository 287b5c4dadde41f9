"""Tiers and teams, limits on them, and deadlines within a user's queue: examples worked out by hand."""

from __future__ import annotations

import pytest

from core.lab import Lab
from fairlead.core import scheduler as core


def lab_of(make, **limits):
    """One slot, busy with a request of nobody's until ``go``."""
    lab = Lab(make(**{"groups_max": 8} | limits), slots=(1,))
    lab.submit("_0")
    assert lab.drain() == ["_0"]
    return lab


def go(lab):
    lab.finish("_0")
    return lab.serve()


def test_a_team_has_one_share_however_many_its_users(make):
    # Users a and b in one team, c in another: c gets every other turn. Flat it would be a b c a b c ...
    lab = lab_of(make)
    one, two = (lab.s.add_group(0, lab.pools[0]) for _ in range(2))
    lab.many("a1 a2 a3 a4 b1 b2 b3 b4", pool=one)
    lab.many("c1 c2 c3 c4", pool=two)
    assert go(lab) == "a1 c1 b1 c2 a2 c3 b2 c4 a3 b3 a4 b4"


def test_weighted_tiers_starve_nobody(make):
    lab = lab_of(make)
    high, normal, low = (lab.s.add_group(0, lab.pools[0], weight) for weight in (16, 4, 1))
    for letter, tier in (("h", high), ("n", normal), ("l", low)):
        lab.many(" ".join(f"{letter}{k}" for k in range(42)), pool=tier)
    order = go(lab).split()
    for turns in (21, 42):
        served = [sum(name[0] == letter for name in order[:turns]) for letter in "hnl"]
        assert served == [16 * turns // 21, 4 * turns // 21, turns // 21]


def test_a_strict_pool_serves_the_smallest_rank_first(make):
    lab = lab_of(make)
    lab.finish("_0")
    lab.s.set_strict(0, lab.pools[0], core.NEVER)
    low, high = lab.s.add_group(0, lab.pools[0], 1, 2), lab.s.add_group(0, lab.pools[0], 1, 0)
    lab.many("L1 L2 L3", pool=low)
    assert lab.drain() == ["L1"]
    lab.many("H1 H2", pool=high)
    assert [lab.s.position(lab.handles[name]) for name in ("H1", "H2", "L2", "L3")] == [1, 2, 3, 4]
    assert lab.serve() == "H1 H2 L2 L3"  # L1 is not interrupted
    with pytest.raises(ValueError, match="strict"):
        lab.submit("X1")


def test_the_place_of_a_request_to_come_is_the_one_it_would_be_told(make):
    lab = lab_of(make, within_user=core.DEADLINE)
    high, low = lab.s.add_group(0, lab.pools[0], 16), lab.s.add_group(0, lab.pools[0], 4)
    team = lab.s.add_group(0, low, 3)
    lab.many("H1 H2 H3 H4", pool=high)
    lab.many("r1 r2 r3", pool=team, deadline=500)
    lab.many("n1 n2 n3 n4 n5", pool=low)
    # s is second of its team, where 4 would wait; that is the third of the tier, where 9 would (weights 3 and 1), and
    # the 15th of the pool (4 and 16), where only 13 would.
    assert lab.s.position_if(team, ord("s"), 1, core.NEVER) == 13
    assert lab.s.position_if(high, ord("H"), 1, core.NEVER) == 7  # ceil(5 * 20 / 16)
    # Its deadline puts it before r's others, or behind: first or fourth of the team, so second or sixth of the tier.
    assert lab.s.position_if(team, ord("r"), 1, 499) == 10
    assert lab.s.position_if(team, ord("r"), 1, 500) == 13
    # Of weight 3 in place of 1: the team's total is unchanged if nobody else is there.
    assert lab.s.position_if(team, ord("r"), 3, 499) == 10


@pytest.mark.parametrize("groups", [0, 2])
def test_under_fifo_the_place_is_behind_all_that_wait_in_the_pool(make, groups):
    lab = lab_of(make, order=core.FIFO)
    places = [lab.s.add_group(0, lab.pools[0]) for _ in range(groups)] or [lab.pools[0]]
    lab.many("A1 A2 A3", pool=places[0])
    assert lab.s.position_if(places[-1], ord("B"), 1, core.NEVER) == 4
    lab.submit("B1", pool=places[-1])
    assert lab.s.position(lab.handles["B1"]) == 4


def test_who_waited_too_long_is_promoted_once_in_four_dispatches(make):
    lab = lab_of(make)
    lab.finish("_0")
    lab.s.set_strict(0, lab.pools[0], 30)
    high, low = lab.s.add_group(0, lab.pools[0], 1, 0), lab.s.add_group(0, lab.pools[0], 1, 1)
    lab.many("L1 L2", pool=low)
    lab.many("H1 H2 H3 H4 H5 H6 H7 H8", pool=high)
    assert lab.drain() == ["H1"]
    lab.now = 29
    lab.finish("H1")
    assert lab.drain() == ["H2"]
    lab.now = 30
    assert lab.serve() == "H3 L1 H4 H5 H6 L2 H7 H8"


def test_limits_on_what_runs_in_a_group_and_in_a_pool(make):
    s = make(groups_max=8, limits_max=2)
    lab = Lab(s, slots=(), pools=0)
    lab.pools = [s.add_pool(0, 1, s.add_limit(0, 4))]
    team = s.add_group(0, lab.pools[0], 1, 0, s.add_limit(0, 2))
    lab.node(5)
    lab.many("a1 a2 a3", pool=team)
    lab.many("b1 b2 b3")
    assert lab.drain() == ["a1", "b1", "a2", "b2"]  # the team has two, the pool four
    lab.finish("b1")
    assert lab.drain() == ["b3"]
    lab.finish("b2")
    assert lab.drain() == []  # a slot is free, but only the team has work
    lab.finish("a1")
    assert lab.drain() == ["a3"]


def team_of_four(make, running_max):
    """Two pools with two tiers each, and one team with a group under each of the four and one limit; ten free slots."""
    lab = Lab(make(groups_max=8, limits_max=1), slots=(10,), pools=2)
    limit = lab.s.add_limit(0, running_max)
    tiers = [lab.s.add_group(0, pool, weight) for pool in lab.pools for weight in (4, 1)]
    return lab, limit, [lab.s.add_group(0, tier, 1, 0, limit) for tier in tiers]


def test_a_limit_is_shared_by_the_groups_of_a_team_wherever_they_are(make):
    lab, limit, teams = team_of_four(make, 3)
    for letter, team in zip("abcd", teams, strict=True):
        lab.many(f"{letter}1 {letter}2", pool=team)
    # Pools take turns, and in each the tiers, which all begin at 0: the first to have had work goes first.
    assert lab.drain() == ["a1", "c1", "b1"]
    assert lab.s.limit(limit) == {"running": 3, "running_max": 3, "places": 4}
    assert [lab.s.pool(pool)["eligible_users"] for pool in lab.pools] == [0, 0]
    lab.finish("a1")
    assert [lab.s.pool(pool)["eligible_users"] for pool in lab.pools] == [2, 2]  # at once: its four tiers
    assert lab.drain() == ["d1"]  # the other pool's turn, and d has had nothing there
    lab.finish("b1")
    lab.finish("c1")
    assert lab.drain() == ["a2", "c2"]
    lab.finish("d1")
    assert lab.serve() == "b2 d2"
    assert lab.s.limit(limit)["running"] == 0


def test_others_pass_a_team_that_is_at_its_limit(make):
    lab, _, teams = team_of_four(make, 1)
    lab.many("a1 a2", pool=teams[0])
    lab.many("x1 x2 x3")  # beside the tiers of the same pool
    lab.many("c1", pool=teams[2])
    assert lab.drain() == ["a1", "x1", "x2", "x3"]
    lab.finish("x1")
    assert lab.drain() == []
    lab.finish("a1")
    assert lab.drain() == ["c1"]  # its pool has had nothing yet
    lab.finish("c1")
    assert lab.drain() == ["a2"]


def test_a_team_at_its_limit_saves_nothing_up(make):
    # One slot. The team may run one, which is b's in the other pool: so long, x alone uses the first pool.
    s = make(groups_max=2, limits_max=1)
    lab = Lab(s, slots=(), pools=2)
    limit = s.add_limit(0, 1)
    here, there = (s.add_group(0, pool, 1, 0, limit) for pool in lab.pools)
    lab.node(1, pools=[lab.pools[0]])
    lab.node(1, pools=[lab.pools[1]])
    lab.many("b1", pool=there)
    assert lab.drain() == ["b1"]
    lab.many("x1 x2 x3 x4 x5 x6")
    lab.many("a1 a2 a3", pool=here)
    for name in ("x1", "x2", "x3"):
        assert lab.drain() == [name]
        lab.finish(name)
    lab.finish("b1")
    assert lab.serve() == "a1 x4 a2 x5 a3 x6"  # and not a1 a2 a3 first


def test_all_limits_above_a_request_hold(make):
    # a and b are teams in one tier: two of the tier may run, one of a.
    s = make(groups_max=3, limits_max=2)
    lab = Lab(s, slots=(9,))
    whole, part = s.add_limit(0, 2), s.add_limit(0, 1)
    tier = s.add_group(0, lab.pools[0], 1, 0, whole)
    a, b = s.add_group(0, tier, 1, 0, part), s.add_group(0, tier)
    lab.many("a1 a2 a3", pool=a)
    lab.many("b1 b2 b3", pool=b)
    assert lab.drain() == ["a1", "b1"]
    lab.finish("b1")
    assert lab.drain() == ["b2"]  # a is at its own
    lab.finish("a1")
    assert lab.drain() == ["a2"]  # neither team nor tier was, and a has had less
    s.set_limit(0, part, 0)
    assert lab.drain() == []  # the tier still is
    s.set_limit(0, whole, 3)
    assert lab.drain() == ["b3"]  # a and b have had two, and b was the first to be in line again
    assert [s.limit(each)["running"] for each in (whole, part)] == [3, 1]


def test_a_limit_is_raised_and_lowered_while_its_places_work(make):
    lab, limit, teams = team_of_four(make, 1)
    lab.many("a1 a2 a3", pool=teams[0])
    lab.many("c1 c2 c3", pool=teams[2])
    assert lab.drain() == ["a1"]
    lab.s.set_limit(0, limit, 3)
    assert lab.drain() == ["c1", "a2"]
    lab.s.set_limit(0, limit, 1)  # three run on
    lab.finish("a1")
    lab.finish("c1")
    assert lab.drain() == []
    lab.finish("a2")
    assert lab.drain() == ["c2"]
    lab.s.set_limit(0, limit, 0)  # none
    assert lab.drain() == ["a3", "c3"]


def test_what_comes_back_from_a_node_counts_no_more(make):
    lab, limit, teams = team_of_four(make, 1)
    lab.many("c1", pool=teams[2])
    assert lab.drain() == ["c1"]
    lab.many("a1", pool=teams[0])
    assert lab.drain() == []
    lab.running.remove("c1")
    assert lab.s.requeue(0, lab.handles["c1"])
    assert lab.s.limit(limit)["running"] == 0
    assert [lab.s.pool(pool)["eligible_users"] for pool in lab.pools] == [1, 1]  # both teams' tiers, at once
    assert lab.drain() == ["c1"]  # its charge is taken back, and it is the older one
    lab.finish("c1")
    assert lab.drain() == ["a1"]


def test_a_request_at_its_places_limit_can_not_start_at_once(make):
    s = make(waiting_max=0, running_max=9, groups_max=1, limits_max=1)
    lab = Lab(s, slots=(9,))
    team = s.add_group(0, lab.pools[0], 1, 0, s.add_limit(0, 1))
    assert lab.submit("a1", pool=team) > 0
    assert lab.drain() == ["a1"]
    assert lab.submit("a2", pool=team) == core.QUEUE_FULL  # it would have to wait, and none may
    assert lab.submit("x1") > 0
    assert lab.drain() == ["x1"]
    lab.finish("a1")
    assert lab.submit("a3", pool=team) > 0


def test_limits_are_counted_and_belong_to_their_places(make):
    s = make(groups_max=3, limits_max=2)
    first, second = s.add_limit(0, 5), s.add_limit(0, 0)
    with pytest.raises(ValueError, match="2 limits already, which is limits_max"):
        s.add_limit(0, 1)
    pool = s.add_pool(0, 1, first)
    outer = s.add_group(0, pool, 1, 0, second)
    with pytest.raises(ValueError, match=f"limit is {first}, which counts all in {outer} already"):
        s.add_group(0, outer, 1, 0, first)
    for refused in (0, -1, 3, 2**40):
        for call in (lambda it: s.set_limit(0, it, 1), lambda it: s.remove_limit(0, it), s.limit):
            with pytest.raises(ValueError, match=f"limit is {refused}: there is no such limit"):
                call(refused)
    for add in (lambda: s.add_pool(0, 1, 3), lambda: s.add_group(0, pool, 1, 0, 3)):
        with pytest.raises(ValueError, match="limit is 3: there is no such limit"):
            add()
    with pytest.raises(ValueError, match="has places"):
        s.remove_limit(0, second)
    middle, last = (s.add_group(0, pool, 1, 0, second) for _ in range(2))
    assert s.limit(second)["places"] == 3
    for number, group in enumerate((middle, last, outer)):
        s.remove_group(0, group)
        assert s.limit(second) == {"running": 0, "running_max": 0, "places": 2 - number}
    s.remove_limit(0, second)
    assert s.add_limit(0, 7) == second
    assert s.limit(second) == {"running": 0, "running_max": 7, "places": 0}
    s.remove_pool(0, pool)
    s.remove_limit(0, first)
    assert s.add_limit(0, 1) == first


def test_a_weight_that_is_changed_counts_from_the_next_turn(make):
    lab = lab_of(make)
    one, two = (lab.s.add_group(0, lab.pools[0]) for _ in range(2))
    lab.many("a1 a2 a3 a4 a5 a6", pool=one)
    lab.s.set_weight(0, two, 9)  # nothing waits there
    assert lab.s.pool(lab.pools[0])["eligible_weight"] == 1
    lab.many("b1 b2 b3", pool=two)
    assert lab.s.pool(lab.pools[0])["eligible_weight"] == 10
    lab.s.set_weight(0, two, 1)
    lab.s.set_weight(0, one, 3)
    assert lab.s.pool(lab.pools[0])["eligible_weight"] == 4
    assert [lab.s.group(each)["weight"] for each in (one, two)] == [3, 1]
    # a is at 0 1/3 2/3 | 1 4/3 5/3, b at 0 | 1 | 2; equal ones in the order in which they came there.
    assert go(lab) == "a1 b1 a2 a3 b2 a4 a5 a6 b3"
    for strange in (-1, 99):
        with pytest.raises(ValueError, match=f"is {strange}"):
            lab.s.set_weight(0, strange, 1)


def test_within_a_user_the_earliest_deadline_goes_first_and_users_are_unaffected(make):
    lab = lab_of(make, within_user=core.DEADLINE)
    for name, deadline in (("A1", 900), ("A2", 300), ("A3", 600), ("B1", 950), ("A4", 300)):
        lab.submit(name, deadline=deadline)
    lab.s.check()
    assert go(lab) == "A2 B1 A4 A3 A1"


def test_correction_reaches_every_level(make):
    lab = Lab(make(groups_max=2), slots=(2,))
    one, two = (lab.s.add_group(0, lab.pools[0]) for _ in range(2))
    lab.many("a1 a2 a3", pool=one, cost=5)
    lab.many("b1 b2 b3", pool=two, cost=5)
    assert lab.drain() == ["a1", "b1"]
    lab.finish("a1", cost=20)
    assert lab.s.group(one)["virtual_start"] == 20 * core.VIRTUAL_UNIT
    assert lab.drain() == ["b2"]


@pytest.mark.parametrize(("before", "after"), [(5, 1), (1, 5)])
def test_a_charge_is_corrected_at_the_weight_that_it_was_made_at(make, before, after):
    lab = Lab(make(), slots=(2,))
    lab.submit("A1", weight=before, cost=10)
    lab.submit("B1")
    assert lab.drain() == ["A1", "B1"]
    assert lab.start("A") == 10 / before
    lab.submit("A2", weight=after, cost=10)
    lab.finish("A1", cost=0, outcome=core.FAILED)
    assert lab.start("A") == 0  # neither credit nor debt is left of it


def test_groups_can_be_removed_when_empty_and_are_counted(make):
    s = make(groups_max=2)
    pool = s.add_pool(0)
    outer = s.add_group(0, pool)
    inner = s.add_group(0, outer)
    with pytest.raises(ValueError, match="groups_max"):
        s.add_group(0, pool)
    for refused in (lambda: s.remove_group(0, outer), lambda: s.remove_pool(0, pool)):
        with pytest.raises(ValueError, match="must be empty"):
            refused()
    s.remove_group(0, inner)
    s.remove_group(0, outer)
    with pytest.raises(ValueError, match="no such group"):
        s.group(outer)
    s.remove_pool(0, pool)


def test_becoming_strict_with_requests_is_refused(make):
    s = make()
    pool = s.add_pool(0)
    s.submit(0, pool, 1, 1, 1, 1, 0, core.NEVER, 0, 0)
    with pytest.raises(ValueError, match="to become strict"):
        s.set_strict(0, pool, 0)
