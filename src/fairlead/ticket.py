"""A request as the driver knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairlead.policy import Reading


class Ticket:
    """A request as the driver and the meter know it. Who makes requests derives from this and sets the fields before
    submit.

    handle is the driver's: 0 while the request is not with the core. pool and place: what ``find_place`` says. cost:
    as charged at dispatch. flow and tally are the meter's: None, at first; tally: where it was charged while it runs.
    """

    handle: int
    tier: int
    team: str | None
    pool: int
    place: int
    user: int
    weight: int
    cost: int
    width: int
    size_bytes: int
    deadline_ns: int
    running_max: int
    waiting_max: int
    user_name: str
    entered_ns: int
    dispatched_ns: int
    waited_ns: int  # up to the last dispatch
    requeues: int
    bill: Reading | None
    flow: Any
    tally: Any

    def on_dispatch(self, node: int, now_ns: int) -> None:
        """It holds a lease on the node until finish or requeue. May come before submit has returned."""
        raise NotImplementedError

    def on_expire(self, kind: int, now_ns: int) -> None:
        """EXPIRED, NO_NODE or PUSHED_OUT: it has left the queue."""
        raise NotImplementedError

    def on_timer(self, now_ns: int) -> int:
        """Its timer has come. When to come again; 0: not again."""
        raise NotImplementedError

    def on_broken(self) -> None:
        """One of the above raised, so the driver has ended the request as failed."""
        raise NotImplementedError
