"""Long random histories in larger worlds: orders and ledgers equal to the model's, invariants all along.

The seed is the test's name: a failing one is run again with -k "[17]".
"""

import random

import pytest

from fairlead.core import scheduler as core
from models.scheduler_model import Model

OPERATIONS = 1_200


def world(seed):
    rng = random.Random(seed)
    return rng, dict(
        waiting_max=rng.choice([5, 40, 200]),
        running_max=rng.choice([10, 60]),
        flows_max=500,
        nodes_max=6,
        pools_max=4,
        groups_max=4,
        limits_max=2,
        within_user=rng.choice([core.ARRIVAL, core.DEADLINE]),
        decisions_max=rng.choice([1, 7, 256]),
        order=rng.choice([core.FAIR, core.FAIR, core.FAIR, core.FIFO]),
        routing=rng.choice([core.SCORE, core.SCORE_RAW, core.LEAST_LOADED]),
        no_node_wait_ns=rng.choice([30, core.NEVER]),
        rebase_at=rng.choice([1, 5 * core.VIRTUAL_UNIT, 1 << 60]),
        overflow=rng.choice([core.REJECT, core.PUSH_OUT]),
        waiting_bytes_max=rng.choice([60, 10**6]),
    )


class Pair:
    """Core and model under the same hand; handles are pairs."""

    def __init__(self, limits):
        self.core, self.model, self.now = core.Scheduler(**limits), Model(**limits), 0
        self.waiting, self.running, self.nodes = [], [], []
        self.limits = [self.both("add_limit", 0) for _ in range(2)]
        self.places = [self.both("add_pool"), self.both("add_pool", 1, self.limits[1]), self.both("add_pool")]

    def both(self, name, *arguments):
        ours, theirs = self.call(name, *arguments)
        assert ours == theirs
        return ours

    def add_tiers(self, rng):
        """Pool 2 gets tiers, maybe strict ones, each with a group of one team, whose limit is shared. The lower tier
        shares one with pool 1."""
        if rng.random() < 0.5:
            self.both("set_strict", 2, rng.choice([0, 20, core.NEVER]))
            self.places.remove(2)
        team, other = self.limits
        high, low = self.both("add_group", 2, 16, 0), self.both("add_group", 2, 1, 1, other)
        self.places += [high, low, self.both("add_group", low, 3, 0, team), self.both("add_group", high, 3, 0, team)]
        self.change_limits(rng)

    def change_limits(self, rng):
        for limit in self.limits:
            self.both("set_limit", limit, rng.choice([0, 1, 2, 5]))

    def call(self, name, *arguments):
        ours = getattr(self.core, name)(self.now, *(a[0] if isinstance(a, tuple) else a for a in arguments))
        theirs = getattr(self.model, name)(self.now, *(a[1] if isinstance(a, tuple) else a for a in arguments))
        return ours, theirs

    def drain(self):
        while True:
            ours, theirs = self.core.drain(self.now), self.model.drain(self.now)
            known, nodes = dict(self.waiting), dict(self.nodes)
            assert [(kind, known[handle], nodes.get(node, 0)) for kind, handle, node in ours] == theirs
            for kind, handle, _ in ours:
                self.waiting.remove((handle, known[handle]))
                if kind == core.DISPATCHED:
                    self.running.append((handle, known[handle]))
            if not ours:
                return

    def step(self, rng, users):
        self.now += rng.choice([0, 0, 1, 3])
        action = rng.random()
        if action < 0.5:
            pool, user, weight = rng.choice(self.places), rng.randrange(users), rng.choice([1, 2, 3, 16, 17, 1000])
            deadline = self.now + rng.choice([5, 50, 10**6])
            rest = (rng.randint(0, 50), rng.choice([1, 1, 1, 4]), rng.randrange(9), deadline, rng.choice([0, 0, 3]), 0)
            ours, theirs = self.call("submit", pool, user, weight, *rest)
            assert (ours < 0 and ours == theirs) or (ours > 0 and theirs > 0)
            if ours > 0:
                self.waiting.append((ours, theirs))
        elif action < 0.8 and self.running:
            pair = self.running.pop(rng.randrange(len(self.running)))
            assert self.call("finish", pair, rng.choice([1, 2, 3]), rng.randint(0, 80)) == (True, True)
        elif action < 0.85 and self.waiting:
            assert self.call("cancel", self.waiting.pop(rng.randrange(len(self.waiting)))) == (True, True)
        elif action < 0.88 and self.running:
            self.waiting.append(self.running.pop(rng.randrange(len(self.running))))
            assert self.call("requeue", self.waiting[-1]) == (True, True)
        elif action < 0.90 and self.waiting:
            ours, theirs = self.call("move", rng.choice(self.waiting), rng.choice(self.places))
            assert ours == theirs  # False for one that was pushed out and not reported yet
        elif action < 0.95:
            self.change_nodes(rng)
        elif action < 0.96:
            self.change_limits(rng)

    def change_nodes(self, rng):
        if len(self.nodes) < 6 and rng.random() < 0.5:
            self.nodes.append(self.call("add_node", rng.randint(1, 8)))
            self.call("set_node_pools", self.nodes[-1], rng.sample(range(3), rng.randint(1, 3)))
        if not self.nodes:
            return
        node = rng.choice(self.nodes)
        self.call("set_node_state", node, rng.choice([core.DOWN, core.UP, core.UP, core.UP, core.DRAINING]))
        self.call("set_node_load", node, rng.choice([-1.0, rng.random()]), rng.randint(0, 4))
        if rng.random() < 0.1:
            self.nodes.remove(node)
            assert self.call("remove_node", node) == (True, True)


@pytest.mark.parametrize("seed", range(50))
def test_core_and_model_agree_over_a_long_history(seed):
    rng, limits = world(seed)
    pair = Pair(limits)
    if rng.random() < 0.6:
        pair.add_tiers(rng)
    users = rng.choice([2, 10, 60])
    for number in range(OPERATIONS):
        pair.step(rng, users)
        if rng.random() < 0.9:
            pair.drain()
        if number % 50 == 0:
            pair.core.check()
            assert pair.core.counters() == pair.model.counters()
            assert [pair.core.limit(each) == pair.model.limit(each) for each in pair.limits] == [True, True]
            for place in pair.places:
                for user in range(users):
                    assert pair.core.user(place, user) == pair.model.user(place, user)
    counters = pair.core.counters()
    assert counters["dispatched"] > 50 and counters["received"] > OPERATIONS // 3, "this history tries too little"
    finish_everything(pair)


def finish_everything(pair):
    """Whatever the history was: when all has ended, nothing is left."""
    for waiting in list(pair.waiting):
        assert pair.call("cancel", waiting) == (True, True)
    for running in pair.running:
        assert pair.call("finish", running, core.COMPLETED, 1) == (True, True)
    pair.core.check()
    counters = pair.core.counters()
    assert counters == pair.model.counters()
    assert [counters[name] for name in ("waiting", "waiting_bytes", "running", "flows", "users")] == [0] * 5
