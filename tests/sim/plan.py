"""What a simulated world is like: everything that is fixed from the start, drawn from the seed."""

from __future__ import annotations

import random
from typing import Any

from fairlead.clock import MILLISECOND_NS as MS
from fairlead.core import scheduler as core

LARGE_EVERY = 8  # every eighth seed has more than a thousand waiting, of more than a hundred users
EVENTS, EVENTS_LARGE = 5_000, 10_000
FAULTS = ("node_death", "slow_node", "leaving", "standing_clock", "reconfiguration", "breaking")


class Plan:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"plan {seed}")
        self.large = large = seed % LARGE_EVERY == 0
        self.events = EVENTS_LARGE if large else EVENTS
        self.faults = [fault for fault in FAULTS if rng.random() < 0.5]
        self.models = rng.random() < 0.5  # a world of models, or one of places; see world.py
        self.early = "standing_clock" in self.faults  # timers come before their time
        self.still_ns_max = rng.choice((4 * MS, 60 * MS)) if self.early else 0
        self.step_ns = rng.choice((0, 0, 150, 2_000))
        # Nodes
        self.pools = rng.randint(1, 4)
        self.nodes = rng.randint(4, 8) if large else rng.randint(1, 5)
        self.slots = (8, 16) if large else rng.choice(((1,), (1, 2, 4)))
        self.service_ns = rng.choice((MS, 4 * MS)) if large else rng.choice((2 * MS, 20 * MS))
        self.beat_ns = (6 if large else 4) * self.service_ns  # between two actions of a fault
        # Clients
        self.users = 125 if large else rng.choice((1, 2, 8, 30))
        self.clients = 1_800 if large else rng.choice((3, 12, 40))
        self.widths = rng.choice(((1,), (1, 1, 1, 4)))
        self.running_caps = rng.choice(((0,), (0, 0, 0, 2, 5)))
        self.waiting_caps = (0,) if large else rng.choice(((0,), (0, 0, 3)))
        self.patience_ns = rng.choice((500, 5_000) if large else (5, 50, 500)) * MS
        self.arrival_ns = (1 if large else 5) * MS
        self.rest_ns = 0 if large else rng.choice((0, 1, 10)) * MS
        self.sulk_ns = rng.choice((10, 50)) * self.service_ns  # the rest of who was not served
        self.limits = self._limits(rng)
        self.exact_pools = self.limits["pools_max"] > 8  # else models may have to stay in a pool that does not fit
        self.requests_max = self.limits["waiting_max"] + self.limits["running_max"]
        self.requests_max += self.limits["overflow"] == core.PUSH_OUT
        self.limits["flows_max"] = self.requests_max + rng.choice((1, 40))

    def _limits(self, rng: random.Random) -> dict[str, Any]:
        large = self.large
        return dict(
            waiting_max=rng.choice((1_200, 1_500) if large else (0, 1, 4, 40)),
            running_max=rng.choice((60, 200) if large else (2, 8, 40)),
            waiting_bytes_max=core.NEVER if large else rng.choice((150, core.NEVER, core.NEVER)),
            nodes_max=8,
            pools_max=rng.choice((3, 24)) if self.models else 5,
            groups_max=0 if self.models else 6,
            decisions_max=rng.choice((1, 2, 7, 256)),
            order=rng.choice((core.FAIR, core.FAIR, core.FIFO)),
            within_user=rng.choice((core.ARRIVAL, core.DEADLINE)),
            overflow=rng.choice((core.REJECT, core.PUSH_OUT)),
            routing=rng.choice((core.SCORE, core.SCORE_RAW, core.LEAST_LOADED, core.P2C)),
            no_node_wait_ns=rng.choice(
                (20 * MS, 500 * MS, core.NEVER) if large else (0, 20 * MS, 200 * MS, core.NEVER)
            ),
            rebase_at=rng.choice((1, 5 * core.VIRTUAL_UNIT, 1 << 60)),
            seed=self.seed,
        )

    def __str__(self) -> str:
        limits = ", ".join(f"{name} {value}" for name, value in self.limits.items())
        kind = "models" if self.models else "places"
        return (
            f"{kind}, {self.clients} clients of {self.users} users, faults {' '.join(self.faults) or 'none'}; {limits}"
        )
