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
    lab = Lab(make(groups_max=8), slots=(5,))
    team = lab.s.add_group(0, lab.pools[0])
    lab.s.set_limits(0, team, 1, 2)
    lab.s.set_limits(0, lab.pools[0], 1, 4)
    lab.many("a1 a2 a3", pool=team)
    lab.many("b1 b2 b3")
    assert lab.drain() == ["a1", "b1", "a2", "b2"]  # the team has two, the pool four
    lab.finish("b1")
    assert lab.drain() == ["b3"]
    lab.finish("b2")
    assert lab.drain() == []  # a slot is free, but only the team has work
    lab.finish("a1")
    assert lab.drain() == ["a3"]


def test_a_limit_that_is_raised_lets_the_next_one_go(make):
    lab = Lab(make(groups_max=1), slots=(5,))
    lab.s.set_limits(0, lab.pools[0], 1, 1)
    lab.many("a1 a2")
    assert lab.drain() == ["a1"]
    lab.s.set_limits(0, lab.pools[0], 1, 2)
    assert lab.drain() == ["a2"]


def test_within_a_user_the_earliest_deadline_goes_first_and_users_are_unaffected(make):
    lab = lab_of(make, within_user=core.DEADLINE)
    for name, deadline in (("A1", 900), ("A2", 300), ("A3", 600), ("B1", 950), ("A4", 300)):
        lab.submit(name, deadline=deadline)
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
