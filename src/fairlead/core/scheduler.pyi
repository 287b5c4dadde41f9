"""The scheduler core: who goes next, where to, and who has waited long enough.

Sans-IO and single-threaded. It reads no clock (``now_ns`` is the first argument of every entry and never
goes backwards), does no I/O and calls nothing back: it returns decisions. All memory is allocated by the
constructor; every limit is fixed there. A caller's mistake raises, with the value in the message; "full"
is a normal answer.

Units: times in nanoseconds of one monotonic clock, virtual time in 1/720720 (``VIRTUAL_UNIT``) of one unit
of cost, GPU load 0..1, sizes in bytes.

A request is named by a *handle* (generation << 32 | slot). A handle is valid from ``submit`` until the
request ends (``finish``, ``cancel``, or the decision that it expired); afterwards every call with it is
refused (returns False) and changes nothing.

A script that drives it without the router::

    from fairlead.core import scheduler as core
    s = core.Scheduler(waiting_max=100, running_max=100)
    pool = s.add_pool(0)
    node = s.add_node(0, 1)                                   # one slot
    s.set_node_pools(0, node, [pool])
    s.set_node_state(0, node, core.UP)
    a = s.submit(0, pool, 1, 1, 1, 1, 0, core.NEVER, 0, 0)    # user 1, weight 1, cost 1, width 1
    b = s.submit(0, pool, 2, 1, 1, 1, 0, core.NEVER, 0, 0)    # user 2
    s.drain(0)                                                # [(DISPATCHED, a, node)]
    s.finish(5, a, core.COMPLETED, 1)                         # true cost 1
    s.drain(5)                                                # [(DISPATCHED, b, node)]
"""

from collections.abc import Iterable
from typing import Final, Self, final

NEVER: Final[int]  # a deadline that does not come: 2**63 - 1
VIRTUAL_UNIT: Final[int]  # 720720 = lcm(1..16)
WEIGHT_MAX: Final[int]  # 2**20
COST_MAX: Final[int]  # 2**31 - 1
WIDTH_MAX: Final[int]  # 2**15 - 1

# What submit answers instead of a handle (handles are > 0)
QUEUE_FULL: Final[int]  # -1: waiting_max requests wait already, and this one could not start at once
USER_QUEUE_FULL: Final[int]  # -2: the user's own limit on waiting requests
BYTES_FULL: Final[int]  # -3: waiting_bytes_max would be passed

# Kinds of decision
DISPATCHED: Final[int]  # 1: the request holds a lease on the node, until finish or requeue
EXPIRED: Final[int]  # 2: its deadline passed while it waited; the handle is dead
NO_NODE: Final[int]  # 3: its pool had no usable node for no_node_wait_ns; the handle is dead

PUSHED_OUT: Final[int]  # 4: it gave way to a user below its share of the waiting room; the handle is dead

# How a dispatched request ended
COMPLETED: Final[int]  # 1
CANCELLED: Final[int]  # 2
FAILED: Final[int]  # 3

# Node states. Only UP is given work; leases of the others run on.
DOWN: Final[int]  # 0
UP: Final[int]  # 1
DRAINING: Final[int]  # 2

# Order between users
FAIR: Final[int]  # 0: start-time fair queueing: smallest virtual start, then smallest stamp
FIFO: Final[int]  # 1: oldest request

# Order within one user's queue
ARRIVAL: Final[int]  # 0: place in time
DEADLINE: Final[int]  # 1: earliest deadline first, then place in time

# What happens when the waiting room is full
REJECT: Final[int]  # 0: the newcomer is refused
PUSH_OUT: Final[int]  # 1: a newcomer of a user below its share of the room is let in, and others give way

NEVER_WAIT: Final[int]  # -1, as user_waiting_max

# Choice of node among those that are UP, in the pool, and have a free slot. Smallest wins, ties go to the
# node chosen least recently (a node counts as chosen when it is added).
SCORE: Final[int]  # 0: gpu_weight * gpu + queue_weight * min(1, (running + others) / slots), in 1e-9
SCORE_RAW: Final[int]  # 1: int(gpu * 0.3 * 100 + (running + others) * 0.7 * 10), bit for bit
LEAST_LOADED: Final[int]  # 2: (running + others) / slots, in 1e-9
P2C: Final[int]  # 3: the lower SCORE of two drawn at random (from the seed); the only open one if there is one

@final
class Scheduler:
    """One scheduler for all pools of a process.

    waiting_max: requests that may wait (0: none may). running_max: requests that may be dispatched and unfinished
    at once. waiting_bytes_max: their bodies together. flows_max (pairs of pool and user with a counter; 0 picks
    waiting_max + running_max + 4096): when the table is full, the idle user with the least debt is forgotten.
    no_node_wait_ns: how long a request waits in a pool without a usable node (counted from the later of its submit,
    requeue or move there and the pool's loss of its last UP node). rebase_at: virtual time at which counters are
    moved back to 0 (tests force it). seed: for P2C.

    Raises ValueError for a limit out of range, MemoryError when the memory cannot be had.
    """

    def __new__(
        cls,
        *,
        waiting_max: int,
        running_max: int,
        waiting_bytes_max: int = ...,
        flows_max: int = 0,
        nodes_max: int = 256,
        pools_max: int = 64,
        groups_max: int = 0,
        limits_max: int = 0,
        decisions_max: int = 256,
        order: int = ...,
        within_user: int = ...,
        overflow: int = ...,
        routing: int = ...,
        gpu_weight: float = 0.3,
        queue_weight: float = 0.7,
        no_node_wait_ns: int = ...,
        rebase_at: int = ...,
        seed: int = 1,
    ) -> Self: ...

    # Pools ---------------------------------------------------------------------------------------
    def add_pool(self, now_ns: int, weight: int = 1, limit: int = 0, /) -> int:
        """A new pool's index. limit: see add_limit; 0: none. Raises ValueError when pools_max exist."""

    def remove_pool(self, now_ns: int, pool: int, /) -> None:
        """Forget a pool. Raises ValueError while requests wait or run in it or a node belongs to it."""

    # Groups: tiers and teams ---------------------------------------------------------------------
    # A tree below each pool. A *place* is a pool or a group: users that are submitted to it compete there with its
    # groups, by weight, on equal terms. A group's share of its parent is its own, whatever the number of its users.

    def add_group(self, now_ns: int, parent: int, weight: int = 1, rank: int = 0, limit: int = 0, /) -> int:
        """A new group's number (pools_max and up), under a pool or group. rank (smaller first) counts only under a
        strict pool. limit: see add_limit; 0: none. Raises ValueError when groups_max exist, or when a place above
        belongs to the same limit."""

    def remove_group(self, now_ns: int, group: int, /) -> None:
        """Forget a group. Raises ValueError while requests wait or run in it or it has groups."""

    def set_weight(self, now_ns: int, place: int, weight: int, /) -> None:
        """The weight of a pool or group among its siblings. The charges of what runs are corrected at the new weight:
        meant for when nothing does."""

    def set_strict(self, now_ns: int, pool: int, promote_after_ns: int, /) -> None:
        """Serve this pool's groups by rank instead of weight: the smallest first. Of four dispatches at most one goes
        to another group, the one whose next request is the oldest of those that wait for promote_after_ns (counted as
        for no_node_wait_ns; NEVER: no such exception). Requests then go to its groups only. Raises ValueError while
        it has requests."""

    def group(self, group: int, /) -> dict[str, int]:
        """waiting, running, weight, virtual_start, virtual_time, eligible (users and groups below it that are),
        eligible_weight."""

    # Limits --------------------------------------------------------------------------------------
    # A limit is shared by places: what runs in all of them together counts, wherever they are. A place belongs to the
    # limit that it was made with as long as it exists, or to none. So a team that has a group under each tier of each
    # pool has one limit. Every place above a request may belong to another one, and all of them hold.

    def add_limit(self, now_ns: int, running_max: int, /) -> int:
        """A new limit's number (1 and up). running_max: requests that may run in its places together (0: no limit).
        Raises ValueError when limits_max exist."""

    def set_limit(self, now_ns: int, limit: int, running_max: int, /) -> None:
        """Another running_max, from here on. Fewer than run at the moment: they run on, nothing new starts."""

    def remove_limit(self, now_ns: int, limit: int, /) -> None:
        """Forget a limit. Raises ValueError while a place belongs to it."""

    def limit(self, limit: int, /) -> dict[str, int]:
        """running, running_max, places (that belong to it)."""

    # Nodes ---------------------------------------------------------------------------------------
    def add_node(self, now_ns: int, slots: int, /) -> int:
        """A new node's handle (generation << 32 | index), DOWN, in no pool. ValueError when nodes_max exist."""

    def remove_node(self, now_ns: int, node: int, /) -> bool:
        """Forget a node. Its leases stay with their requests and can't touch whoever gets its index next."""

    def set_node_pools(self, now_ns: int, node: int, pools: Iterable[int], /) -> bool:
        """The pools this node works for, replacing those before. False: stale node handle."""

    def set_node_state(self, now_ns: int, node: int, state: int, /) -> bool: ...
    def set_node_slots(self, now_ns: int, node: int, slots: int, /) -> bool:
        """slots >= 0. Fewer than run at the moment: nothing is taken away, nothing new starts."""

    def set_node_load(self, now_ns: int, node: int, gpu_load: float, others: int, /) -> bool:
        """gpu_load 0..1 (clamped), or negative for unknown, which counts as 0.5. others: requests that the
        engine has from elsewhere, >= 0."""

    # Requests ------------------------------------------------------------------------------------
    def submit(
        self,
        now_ns: int,
        place: int,
        user: int,
        weight: int,
        cost: int,
        width: int,
        size_bytes: int,
        deadline_ns: int,
        user_running_max: int,
        user_waiting_max: int,
        /,
    ) -> int:
        """Put a request at the end of its user's queue. Returns a handle (> 0) or a refusal (< 0).

        user: any integer 0 <= user < 2**64. weight 1..WEIGHT_MAX and user_running_max (0: no limit; counts
        requests of the user in all pools) hold for the user from here on: the newest submit decides. What runs
        already is corrected at the weight that it was charged at.
        cost 0..COST_MAX: charged at dispatch, corrected by finish. width 1..WIDTH_MAX: slots it occupies; it
        starts when one is free. user_waiting_max: 0 means no limit, NEVER_WAIT that the
        caller will cancel it unless it starts with the next drain: no limit, and nobody gives way to it.
        A request that can start at once (a slot is free for its pool, nobody eligible waits there, its user
        and its places are below their limits) is never refused, except with QUEUE_FULL when requests that came back
        from nodes have filled the table. With PUSH_OUT it is not refused with QUEUE_FULL either while fewer requests
        of its user wait (in all pools) than the user's share: waiting_max * weight / (weights of all users with
        waiting requests, with its own), nor with BYTES_FULL while it fits into the same share of waiting_bytes_max.
        Then the last request in the queue of the user with the largest waiting / weight (bytes / weight) gives way, as
        often as needed; ties: the user that came to the table last. Drain reports it as PUSHED_OUT and must be called
        before the next submit, or that may be refused for want of a slot.
        Refusals are checked in the order USER_QUEUE_FULL, QUEUE_FULL, BYTES_FULL.
        """

    def drain(self, now_ns: int, /) -> list[tuple[int, int, int]]:
        """Report what was pushed out, expire what is due (deadline <= now), then dispatch while a slot and an
        eligible user exist.

        Returns (kind, handle, node handle or 0) in order, pushed out and expired first. At most decisions_max: a full
        list means "call again".
        """

    def finish(self, now_ns: int, handle: int, outcome: int, cost: int, /) -> bool:
        """End a dispatched request: correct its charge to cost, give its slots back. False: stale handle
        or not dispatched."""

    def cancel(self, now_ns: int, handle: int, /) -> bool:
        """Take a waiting request out, for nothing. One that was pushed out and not reported yet is not reported then,
        and stays counted as pushed out. False: stale handle or already dispatched."""

    def requeue(self, now_ns: int, handle: int, /) -> bool:
        """Give a dispatched request's slots and charge back and put it into its user's queue again, with its
        handle, its deadline and its place in time: that is the head, unless older ones came back as well. In a tie
        between users its place in time counts.
        Its last two nodes are avoided while another has a free slot. Waiting limits do not apply to it."""

    def move(self, now_ns: int, handle: int, place: int, /) -> bool:
        """Put a waiting request into another pool or group, at its place in time within its user's queue there. A
        counter that is made for it starts as far from the new place's virtual time as it was from the old's."""

    # Looking -------------------------------------------------------------------------------------
    def next_deadline_ns(self) -> int:
        """When drain next has an expiry to report; NEVER when nothing waits for one."""

    def position(self, handle: int, /) -> int:
        """Place in line told to a client: k = 1, 2, ... within its user's queue; then for its user, and for each group
        above it up to the pool: k = min(all waiting at that level, ceil(k * eligible weight / weight)), or under a
        strict pool k + all that wait in groups of smaller rank. Under FIFO: all that wait in the pool, which is the
        place of the request that came last. 0: not waiting."""

    def position_if(self, place: int, user: int, weight: int, deadline_ns: int, /) -> int:
        """What position would say of a request that was submitted so now, and had to wait."""

    def counters(self) -> dict[str, int]:
        """received, refused, refused_queue_full, refused_user_queue_full, refused_bytes_full, pushed_out, dispatched,
        requeued, completed, cancelled, cancelled_waiting, failed, expired, no_node (cancelled includes
        cancelled_waiting), waiting, waiting_bytes, running, flows, users.
        received = refused + pushed_out + expired + no_node + cancelled + failed + completed + waiting + running."""

    def pool(self, pool: int, /) -> dict[str, int]:
        """waiting, running, nodes, usable, open, virtual_time, eligible_users, eligible_weight."""

    def node(self, node: int, /) -> dict[str, int]:
        """state, slots, running (slots occupied), leases, others, score (1e-9, or raw points), chosen (order of last
        choice). Empty: stale handle."""

    def user(self, place: int, user: int, /) -> dict[str, int]:
        """waiting, running, virtual_start, weight of the user in this pool or group. Empty: it has no counter there."""

    def check(self) -> None:
        """Raise AssertionError naming the first broken invariant. O(size); for tests and /api/invariants."""
