"""The live figures of users: shares and indices worked out by hand, and who is remembered."""

from __future__ import annotations

import pytest

from fairlead.accounts import Standing
from fairlead.clock import SECOND_NS
from fairlead.users import OTHER, Users
from pure.users_world import World

# By hand -------------------------------------------------------------------------------------------


def test_who_all_wait_all_the_time_are_due_their_weights() -> None:
    world = World()
    world.ask(1, 100, weight=3)
    world.ask(2, 100)
    world.serve(1, 1, 1, 2, 1, 1, 1, 2)
    assert world.shares() == {"alice": (6, 6), "bob": (2, 2)}
    assert world.jain == pytest.approx(1)
    world.serve(2, 2, 2, 2)  # x = 6/9 and 6/3: (8/3)^2 / (2 * (4/9 + 4))
    assert world.shares() == {"alice": (6, 9), "bob": (6, 3)}
    assert world.jain == pytest.approx(64 / 9 / (2 * 40 / 9))


def test_a_user_who_wants_little_is_short_of_nothing() -> None:
    """One of twenty is bob's, and he never waits behind another: all he wanted."""
    world = World()
    world.ask(1, 100)
    for _ in range(5):
        world.serve(*[1] * 19)
        world.ask(2)
        world.serve(2)
    assert world.shares() == {"alice": (95, 95), "bob": (5, 5)}
    assert world.jain == pytest.approx(1)


def test_a_user_who_waits_all_the_time_for_one_request_at_a_time_is_short() -> None:
    """What first come, first served does to one client beside forty."""
    world = World()
    world.ask(1, 100)
    for _ in range(5):
        world.ask(2)
        world.serve(*[1] * 9, 2)
    # Bob waits while 9 and his own are served, each time: he was due half of all 50.
    assert world.shares() == {"alice": (45, 25), "bob": (5, 25)}
    assert world.jain == pytest.approx((45 / 25 + 5 / 25) ** 2 / (2 * (1.8**2 + 0.2**2)))


def test_who_comes_late_is_not_short_of_what_was_served_before() -> None:
    world = World()
    world.ask(1, 100)
    world.serve(*[1] * 30)
    world.ask(2, 100)
    world.serve(*[1, 2] * 10)
    assert world.shares() == {"alice": (40, 40), "bob": (10, 10)}
    assert world.jain == pytest.approx(1)


def test_who_only_waits_and_expires_is_as_short_as_can_be() -> None:
    world = World()
    world.ask(1, 100)
    world.ask(2, 3)
    world.serve(*[1] * 10)
    for call in world.waiting.pop(2):
        world.end(call, "expired", 0)
    assert world.shares() == {"alice": (10, 5), "bob": (0, 5)}
    assert world.jain == pytest.approx(1 / 2)
    assert world.users.accounts[2].counts.outcomes["expired"] == 3


def test_who_waits_for_its_own_limit_is_not_kept_waiting_by_others() -> None:
    world = World()
    world.ask(2, 50, running_max=1)
    world.ask(1, 100)
    running = world.start(2)  # the only one that bob may have
    world.serve(*[1] * 9)
    assert world.shares() == {"alice": (9, 9), "bob": (1, 1)}
    world.end(running)
    world.serve(*[1] * 10)  # now he could
    assert world.shares() == {"alice": (19, 14.5), "bob": (1, 5.5)}  # half of the first and of the last ten


def test_nobody_is_a_fair_division() -> None:
    world = World()
    assert world.look() == {0: Standing()}
    world.ask(1)
    assert world.jain == 1 and world.shares() == {"alice": (0, 0)}


def test_the_true_cost_counts_where_the_estimate_was() -> None:
    world = World()
    world.ask(1, 2, cost=10)
    world.ask(2, 2, cost=10)
    first, second = world.start(1), world.start(2)
    assert world.shares() == {"alice": (10, 10), "bob": (10, 10)}
    world.now_ns += 20 * SECOND_NS
    world.end(first, cost=25)
    assert world.shares()["alice"][0] == 25
    world.now_ns += 39 * SECOND_NS
    assert world.shares()["alice"][0] == 25
    world.now_ns += 2 * SECOND_NS  # the dispatches are older than the window
    world.end(second, cost=99)
    assert world.shares() == {"alice": (0, 0), "bob": (0, 0)}
    assert world.users.accounts[2].counts.service == 99


def test_what_comes_back_from_a_node_is_not_charged() -> None:
    world = World()
    world.ask(1, cost=7)
    call = world.start(1)
    world.users.requeued(call, world.now_ns)
    assert world.shares() == {"alice": (0, 0)}
    assert world.users.held() == (1, 0)
    call.requeues = 1
    world.users.dispatched(call, world.now_ns)
    assert world.shares() == {"alice": (7, 7)}
    assert world.look()[0].flows[0].waits == 1
    world.end(call)
    assert world.users.held() == (0, 0)


def test_waits_of_the_window() -> None:
    world = World()
    for wait_ms in (10, 30, 80):
        world.ask(1, waited_ns=wait_ms * 1_000_000)
        world.serve(1)
    (flow,) = world.look()[0].flows
    assert (flow.waits, flow.wait_ns, flow.wait_max_ns) == (3, 120_000_000, 80_000_000)
    world.now_ns += 61 * SECOND_NS
    assert world.look()[0].flows == []


def test_pools_are_divided_each_by_itself_and_a_request_can_move() -> None:
    world = World()
    world.ask(1, 10)
    world.ask(2, 10, pool=1, place=1)
    world.serve(1, 2, 2)
    assert world.shares(0) == {"alice": (1, 1)}
    assert world.shares(1) == {"bob": (2, 2)}
    for call in world.waiting[2]:
        world.users.moved(call, 0, 0, world.now_ns)
    world.serve(1, 1, 1, 2)
    assert world.shares(0) == {"alice": (4, 3), "bob": (1, 2)}
    assert world.shares(1) == {"bob": (2, 2)}
    assert world.look((0,)).keys() == {0}  # pool 1 is gone, and its number may be another's
    assert world.shares(1) == {}


def test_users_are_compared_with_those_of_their_tier_and_team() -> None:
    """What stands between tiers and teams is their weight, not who is in them."""
    world = World()
    for user, place, tier, team in ((1, 10, 0, None), (2, 11, 1, None), (3, 11, 1, None), (4, 12, 1, "t")):
        world.ask(user, 50, place=place, tier=tier, team=team)
    world.serve(*[1] * 16, 2, 3, 4, 4)
    assert world.shares() == {"alice": (16, 16), "bob": (1, 1), "carol": (1, 1), "dave": (2, 2)}
    assert world.jain == pytest.approx(1)
    world.serve(3, 3)
    assert world.shares() == {"alice": (16, 16), "bob": (1, 2), "carol": (3, 2), "dave": (2, 2)}
    assert world.jain == pytest.approx(16 / (4 * (1 + 0.25 + 2.25 + 1)))


def test_a_number_that_the_core_gives_again_is_another_place() -> None:
    world = World()
    world.ask(1, place=10, tier=0)
    world.serve(1)
    world.ask(2, 2, place=10, tier=2, team="t")
    world.serve(2)
    assert world.shares() == {"bob": (1, 1)}


# The table -----------------------------------------------------------------------------------------


def test_the_least_recently_seen_is_forgotten_but_not_its_counts() -> None:
    world = World(Users(["carol"], users_max=2))
    for user in (1, 2, 1, 3, 3):
        world.ask(user)
        world.serve(user)
    users = world.users
    assert {account.name for account in users.accounts.values()} == {"alice", "carol"}
    assert (users.forgotten_users, users.forgotten.outcomes["completed"]) == (1, 1)
    assert {name: counts.outcomes["completed"] for name, counts in users.series.items()} == {OTHER: 3, "carol": 2}


def test_who_has_requests_in_the_router_is_not_forgotten() -> None:
    world = World(Users(users_max=2))
    world.ask(1)
    world.ask(2)
    world.ask(3)
    assert set(world.users.accounts) == {1, 2}
    world.serve(3, 1)
    assert world.users.surplus.counts.outcomes["completed"] == 1
    assert world.shares() == {"alice": (1, 0.5), "bob": (0, 0.5), OTHER: (1, 0)}
    world.ask(3)  # there is room, since alice has gone
    assert set(world.users.accounts) == {2, 3}
    world.serve(2, 3)
    assert world.users.held() == (0, 0)


def test_a_user_called_other_is_one_of_them() -> None:
    world = World(Users([OTHER, "alice"]))
    world.ask(9, user_name=OTHER)
    world.ask(1)
    world.serve(9, 1)
    assert {name: counts.outcomes["completed"] for name, counts in world.users.series.items()} == {OTHER: 1, "alice": 1}


def test_a_look_at_many_users_lets_others_go_on_meanwhile() -> None:
    world = World()
    for user in range(3000):
        world.ask(user)
    turns = 0

    def meanwhile() -> None:
        nonlocal turns
        world.end(world.waiting[turns].pop(), "cancelled", 0)
        turns += 1

    assert len(world.look(meanwhile=meanwhile)[0].flows) == 3000
    assert turns >= 10
