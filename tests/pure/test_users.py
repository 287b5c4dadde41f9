"""The live figures of users: shares and indices worked out by hand, and who is remembered."""

from __future__ import annotations

import gc
import weakref

import pytest

from fairlead.accounts import Standing
from fairlead.clock import SECOND_NS
from fairlead.users import OTHER, Users
from pure.users_world import World, all_flows

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
    world.users.requeued(call)
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
    world.ask(1, place=10, tier=2, team="t")
    world.serve(1)
    assert {name: service for name, (service, _) in world.shares().items()} == {"alice": 1, "bob": 1}


def claims(world: World) -> dict[str, float]:
    return {flow.account.name: flow.claims / 2**40 for flow in world.look()[0].flows}


def test_a_piece_of_the_window_is_that_in_which_it_happened() -> None:
    """However long nothing happened before."""
    world = World()
    world.ask(1, 2)
    world.now_ns += 40 * SECOND_NS
    world.serve(1)
    world.now_ns += 30 * SECOND_NS
    assert world.shares() == {"alice": (1, 1)}


def test_who_comes_later_has_no_claim_on_what_was_served_before() -> None:
    world = World()
    world.ask(1)
    world.serve(1)
    world.now_ns += 10 * SECOND_NS
    world.ask(2)
    assert claims(world) == {"alice": 1, "bob": 0}


@pytest.mark.parametrize("how", ["ended", "moved", "requeued and moved"])
def test_who_leaves_was_there_up_to_then(how: str) -> None:
    """The piece in which it left is dealt out to it, too, though it was there first long before."""
    world = World()
    world.ask(1, 2)
    world.ask(2)
    call = world.waiting[2][0]
    if how == "requeued and moved":
        world.users.dispatched(call, world.now_ns)
    world.now_ns += 10 * SECOND_NS
    if how == "requeued and moved":
        world.users.requeued(call)
    if how == "ended":
        world.end(call, "cancelled", 0)
    else:
        world.users.moved(call, 1, 1, world.now_ns)
    world.serve(1)
    found = claims(world)
    assert found["alice"] == found["bob"] > 0


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


def test_what_the_forgotten_had_stays_in_the_window() -> None:
    """One of a hundred requests is alice's, whoever of the others is still known."""
    world = World(Users(users_max=3))
    for user in range(1, 100):
        world.ask(user, waited_ns=user)
        world.serve(user)
        world.ask(1)
        call = world.waiting[1].pop()
        world.end(call, "cancelled", 0)
    flows = {flow.account.name: flow for flow in world.look()[0].flows}
    assert (world.look()[0].service, flows["alice"].service, flows[OTHER].service) == (99, 1, 96)
    assert (flows[OTHER].waits, flows[OTHER].wait_ns, flows[OTHER].wait_max_ns) == (96, sum(range(2, 98)), 97)
    world.now_ns += 61 * SECOND_NS
    assert world.look()[0] == Standing()


def test_nobody_looks_and_no_more_than_the_window_is_kept() -> None:
    world = World(Users(users_max=1))
    for turn in range(40):
        for user in (1, 2 + turn, 100 + turn):  # the last finds the table full and busy
            world.ask(user)
        world.serve(2 + turn, 1, 100 + turn)
        world.ask(200 + turn)  # alice, who is forgotten, or whoever is there
        world.serve(200 + turn)
        world.now_ns += 5 * SECOND_NS
    flows = all_flows(world) + list(world.users.surplus.flows.values())
    assert max(len(flow.recent) for flow in flows) == 12
    world.ask(500, 2)
    for _ in range(2):
        world.serve(500)
        world.now_ns += 61 * SECOND_NS
    assert [len(flow.recent) for flow in all_flows(world)] == [1]


def test_what_the_forgotten_had_does_not_come_into_another_place() -> None:
    world = World(Users(users_max=2))
    world.ask(1, place=10, tier=0)
    world.serve(1)
    world.ask(2, 2, place=10, tier=2)  # the core has given the number again
    world.ask(3, place=10, tier=2)  # alice is forgotten
    world.ask(4, place=10, tier=2)
    running = world.start(4)  # in the surplus
    world.end(world.waiting[3].pop(), "cancelled", 0)
    world.ask(5, place=10, tier=2)
    assert world.shares()[OTHER] == (1, 0)
    assert world.users.held() == (3, 1)
    world.end(running)
    assert world.look()[0].service == 1


def test_a_place_that_comes_about_during_a_look_is_left_for_the_next_one() -> None:
    world = World()
    for user in range(600):
        world.ask(user)

    def meanwhile() -> None:
        if 700 not in world.waiting:
            world.ask(700, place=7, tier=2)
            world.ask(599, place=7, tier=2)

    assert len(world.look(meanwhile=meanwhile)[0].flows) == 600
    assert len(world.look()[0].flows) == 602


def test_who_is_forgotten_leaves_no_garbage() -> None:
    """Else a million names would be a million cycles, and the collector stops the loop to find them."""
    world = World(Users(users_max=1))
    world.ask(1)
    world.serve(1)
    gone = weakref.ref(world.users.accounts[1].flows[0].recent)
    gc.disable()
    try:
        world.ask(2)
        assert gone() is None
    finally:
        gc.enable()


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


def test_what_is_served_during_a_look_is_dealt_out_by_the_next_one() -> None:
    world = World()
    for user in range(2000):
        world.ask(user, 60, weight=1 + user % 3)
        world.serve(user)
    turn = 0

    def meanwhile() -> None:
        nonlocal turn
        world.serve(turn % 2, 1999 - turn % 2)
        turn += 1

    standing = world.look(meanwhile=meanwhile)[0]
    assert 2000 < standing.service < 2000 + 2 * turn
    assert sum(flow.fair for flow in standing.flows) == pytest.approx(standing.service)
    standing = world.look()[0]
    assert standing.service == 2000 + 2 * turn
    assert sum(flow.fair for flow in standing.flows) == pytest.approx(standing.service)


def test_what_a_look_has_dealt_out_stays_though_requests_go_on() -> None:
    world = World()
    world.ask(1, 3)
    world.ask(2, 1)
    world.serve(1, 2)
    standing = world.look()[0]
    world.serve(1, 1)
    assert sum(flow.service for flow in standing.flows) == 4
    assert sum(flow.dealt for flow in standing.flows) == standing.service == 2
