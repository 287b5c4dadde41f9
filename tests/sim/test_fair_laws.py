"""What fair queueing promises besides its bound: nobody starves, no slot idles beside work, no cost is lost or made.

And what must not matter: users' names, the unit of weights, where the zero of virtual time lies.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fairlead.core import scheduler as core


class World:
    """A scheduler with one pool, and a ledger of its own of who waits and runs. No deadlines: drain only dispatches."""

    def __init__(self, slots, **limits):
        sizes = dict(waiting_max=500, running_max=50, flows_max=600, nodes_max=4, pools_max=1)
        self.s = core.Scheduler(**(sizes | limits))
        self.pool = self.s.add_pool(0)
        self.slots = {}  # node -> slots; 0 also for one that is not up
        for count in slots:
            node = self.s.add_node(0, count)
            self.s.set_node_pools(0, node, [self.pool])
            self.s.set_node_state(0, node, core.UP)
            self.slots[node] = count
        self.of = {}  # handle -> user, cost, width
        self.waiting, self.running = [], {}  # handles; handle -> node
        self.waits, self.runs, self.cap = Counter(), Counter(), {}  # of each user; a cap of 0: none

    def submit(self, user, weight, cost, *, width=1, cap=0):
        handle = self.s.submit(0, self.pool, user, weight, cost, width, 0, core.NEVER, cap, 0)
        assert handle > 0
        self.of[handle] = user, cost, width
        self.waiting.append(handle)
        self.waits[user] += 1
        self.cap[user] = cap
        return handle

    def drain(self):
        """What was dispatched, in order."""
        handles = []
        for kind, handle, node in self.s.drain(0):
            assert kind == core.DISPATCHED
            handles.append(handle)
            self.waiting.remove(handle)
            self.running[handle] = node
            self.waits[self.of[handle][0]] -= 1
            self.runs[self.of[handle][0]] += 1
        return handles

    def finish(self, handle, cost=None, outcome=core.COMPLETED):
        user, exact, _ = self.of[handle]
        assert self.s.finish(0, handle, outcome, exact if cost is None else cost)
        del self.running[handle]
        self.runs[user] -= 1

    def cancel(self, handle):
        assert self.s.cancel(0, handle)
        self.waiting.remove(handle)
        self.waits[self.of[handle][0]] -= 1

    def requeue(self, handle):
        assert self.s.requeue(0, handle)
        del self.running[handle]
        self.waiting.append(handle)
        self.waits[self.of[handle][0]] += 1
        self.runs[self.of[handle][0]] -= 1

    def eligible(self):
        """Users with a waiting request that may start one more."""
        return {u for u, n in self.waits.items() if n and (not self.cap[u] or self.runs[u] < self.cap[u])}

    def has_room(self):
        taken = Counter()
        for handle, node in self.running.items():
            taken[node] += self.of[handle][2]
        return any(taken[node] < count for node, count in self.slots.items())

    def owes(self, user):
        """Whether the user's next turn lies beyond the present."""
        start = self.s.user(self.pool, user).get("virtual_start", 0)
        return start > self.s.pool(self.pool)["virtual_time"]


def starvation(seed):
    """The largest (turns of others before a newcomer's first) - (others that were eligible when it came)."""
    rng = random.Random(seed)
    world = World([rng.choice([1, 2, 4])])
    users = range(rng.randint(2, 8))
    weight = {user: rng.choice([1, 2, 5]) for user in users}
    cap = {user: rng.choice([0, 0, 1, 2]) for user in users}
    allowed, turns, worst = {}, Counter(), -100  # of those that wait for their first turn

    def watch(before):
        """Who has become eligible just now, and owes nothing."""
        now = world.eligible()
        for user in now - before:
            if not world.owes(user):
                allowed[user], turns[user] = len(now) - 1, 0

    for _ in range(150):
        before, action = world.eligible(), rng.random()
        if action < 0.5:
            user = rng.choice(users)
            world.submit(user, weight[user], rng.choice([1, 1, 7, 30]), cap=cap[user])
            watch(before)
        elif action < 0.55 and world.waiting:
            handle = rng.choice(world.waiting)
            if world.waits[world.of[handle][0]] > 1:  # nobody that is watched goes away
                world.cancel(handle)
        elif world.running:
            world.finish(rng.choice(list(world.running)))
            watch(before)
        for handle in world.drain() if rng.random() < 0.7 else []:
            user = world.of[handle][0]
            if user in allowed:
                worst = max(worst, turns[user] - allowed.pop(user))
            for other in allowed:
                turns[other] += 1
    return worst


def test_nobody_waits_longer_for_a_first_turn_than_there_are_others():
    """With exact costs: each of the others has at most one turn, as that takes it beyond the newcomer's start."""
    worst = [starvation(seed) for seed in range(500)]
    print(f"\nstarvation: 500 histories, turns of others - others that were eligible: at most {max(worst)}")
    assert max(worst) == 0, "above 0: somebody starved; below 0: these histories try too little"


def test_a_second_request_waits_for_newcomers_but_not_once_one_of_them_comes_back():
    """What the law above leaves open: who has had a turn waits for all who have not, also for those yet to come.

    Virtual time is the start of the last that was dispatched, so every newcomer starts at it. While they
    never cease, that is before any second request. Each user is new only once: there are as many as there are users.
    """
    world = World([1], flows_max=2_000)
    a, newcomers = 0, range(1, 1_001)
    first, second = world.submit(a, 1, 1), world.submit(a, 1, 1)
    assert world.drain() == [first]
    running = first
    for newcomer in newcomers:
        handle = world.submit(newcomer, 1, 1)
        world.finish(running)
        assert world.drain() == [handle], f"newcomer {newcomer} had to wait"
        running = handle
    again = world.submit(1, 1, 1)  # the first newcomer, with its second request: it stands behind A's
    world.finish(running)
    assert world.drain() == [second]
    world.finish(second)
    assert world.drain() == [again]


@pytest.mark.parametrize("order", [core.FAIR, core.FIFO], ids=["fair", "fifo"])
def test_no_slot_stays_free_while_somebody_may_start(order):
    seen = Counter()
    for seed in range(300):
        rng = random.Random(seed)
        caps = rng.choice([[0], [1, 2], [0, 1, 2]])
        world = World([rng.choice([1, 2, 4]) for _ in range(rng.randint(1, 3))], order=order)
        for _ in range(200):
            action = rng.random()
            if action < 0.4:
                user, width = rng.randrange(4), rng.choice([1, 1, 3])
                world.submit(user, 1 + user, rng.randint(0, 9), width=width, cap=rng.choice(caps))
            elif action < 0.5 and world.waiting:
                world.cancel(rng.choice(world.waiting))
            elif action < 0.6 and world.running:
                world.requeue(rng.choice(list(world.running)))
            elif action < 0.9 and world.running:
                world.finish(rng.choice(list(world.running)), rng.randint(0, 20))
            elif action > 0.9:
                node, count = rng.choice(list(world.slots)), rng.choice([0, 1, 2, 4])
                world.s.set_node_slots(0, node, max(1, count))
                world.s.set_node_state(0, node, core.UP if count else core.DRAINING)
                world.slots[node] = count
            world.drain()
            room, eligible = world.has_room(), world.eligible()
            assert not (room and eligible), f"seed {seed}: {eligible} might start"
            seen["parked beside a free slot"] += room and bool(world.waiting)
            seen["waiting for a slot"] += bool(eligible)
    assert min(seen.values()) > 1_000, f"these histories try too little: {seen}"


WEIGHTS = [1, 2, 3, 7, 16, 60, 17]  # all but 17 divide VIRTUAL_UNIT


@pytest.mark.parametrize("seed", range(20))
def test_in_the_end_everybody_has_paid_what_was_served_and_nothing_else(seed):
    """However wrong the estimates were, and whatever came back: once nothing runs, charges are the actual costs."""
    rng = random.Random(seed)
    world = World([5, 11], waiting_max=4_000, flows_max=4_100)
    paid, kept = Counter(), range(len(WEIGHTS))
    for user in kept:  # all before the first drain, so nobody is ever lifted to the present
        for _ in range(500):
            world.submit(user, WEIGHTS[user], rng.choice([0, 1, 50, 2_000]))
    for _ in range(5):
        for _ in range(20):
            world.drain()
            for handle in rng.sample(list(world.running), rng.randint(1, len(world.running))):
                end(world, handle, rng, paid)
        for handle in list(world.running):
            end(world, handle, rng, paid)
        assert all(world.waits[user] for user in kept), "a user that stopped waiting proves nothing"
        for user in kept:
            assert world.s.user(world.pool, user)["virtual_start"] == paid[user]
        assert world.s.counters()["running"] == 0


def end(world, handle, rng, paid):
    """A running request ends for an actual cost, or comes back for nothing."""
    if rng.random() < 0.2:
        world.requeue(handle)
        return
    user, estimate, _ = world.of[handle]
    actual = rng.choice([0, estimate, rng.randint(0, 3_000)])
    world.finish(handle, actual, rng.choice([core.COMPLETED, core.CANCELLED, core.FAILED]))
    # In whole units, rounded down once for each request and not for each correction of it.
    paid[user] += actual * core.VIRTUAL_UNIT // WEIGHTS[user]


def history(seed, *, names=range(8), scale=1, **limits):
    """The order in which 8 users' requests are dispatched, as numbers of requests. Weights 1..5: exact, and times 3."""
    rng = random.Random(seed)
    world = World([rng.choice([1, 2, 4]) for _ in range(rng.randint(1, 3))], **limits)
    weight = [rng.randint(1, 5) for _ in names]
    number, order = {}, []
    for _ in range(200):
        action = rng.random()
        if action < 0.5:
            user = rng.randrange(8)
            handle = world.submit(names[user], scale * weight[user], rng.randint(0, 20), cap=rng.choice([0, 0, 2]))
            number[handle] = len(number)
        elif action < 0.6 and world.waiting:
            world.cancel(rng.choice(world.waiting))
        elif action < 0.65 and world.running:
            world.requeue(rng.choice(list(world.running)))
        elif world.running:
            world.finish(rng.choice(list(world.running)), rng.randint(0, 30))
        order += [number[handle] for handle in world.drain()]
    world.s.check()
    return order


@pytest.mark.parametrize("order", [core.FAIR, core.FIFO], ids=["fair", "fifo"])
def test_names_and_the_unit_of_weights_and_the_zero_of_time_do_not_matter(order):
    dispatched, differs = 0, 0
    for seed in range(150):
        plain = history(seed, order=order)
        names = [random.Random(f"{seed} {user}").getrandbits(64) for user in range(8)]
        assert history(seed, order=order, names=names) == plain, f"seed {seed}: names"
        upper = [user << 61 for user in range(8)]  # all alike in their lower bits
        assert history(seed, order=order, names=upper) == plain, f"seed {seed}: names"
        assert history(seed, order=order, scale=3) == plain, f"seed {seed}: weights"
        for rebase_at in (1, 5 * core.VIRTUAL_UNIT):
            assert history(seed, order=order, rebase_at=rebase_at) == plain, f"seed {seed}: rebase at {rebase_at}"
        dispatched += len(plain)
        differs += plain != sorted(plain)
    assert dispatched > 5_000 and differs > 100, "these histories try too little"
