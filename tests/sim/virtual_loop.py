"""An event loop and a clock of the tests' own: virtual time, one order of events, and the faults of both.

The loop has what a driver asks of an asyncio loop. Time passes only between two callbacks (and by ``step_ns`` with
every look at the clock), so a second of traffic takes as long as its callbacks take.

Two faults that real machines have: the clock stands still and catches up later, and a timer comes before its time, for
loops count in milliseconds from a cached time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

START_NS = 10**15  # like a machine that has been up for a while; nothing may depend on it


class VirtualClock:
    """Call it for nanoseconds. true_ns goes on while the reading stands still."""

    def __init__(self, step_ns: int = 0) -> None:
        self.true_ns = START_NS
        self.step_ns = step_ns
        self.still_ns: int | None = None

    def __call__(self) -> int:
        self.true_ns += self.step_ns
        return self.reading

    @property
    def reading(self) -> int:
        """The time as it would be told, without the time that telling takes."""
        return self.true_ns if self.still_ns is None else self.still_ns

    def stop(self) -> None:
        if self.still_ns is None:
            self.still_ns = self.true_ns

    def go_on(self) -> None:
        self.still_ns = None


class Timer:
    """What call_later gave. set_ns: what the clock said then."""

    __slots__ = ("args", "callback", "cancelled", "delay_ns", "set_ns")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], delay_ns: int, set_ns: int) -> None:
        self.callback = callback
        self.args = args
        self.delay_ns = delay_ns
        self.set_ns = set_ns
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualLoop:
    """early_ns() is how much too early the next timer comes. Exceptions that are no ``expected`` are raised."""

    def __init__(self, clock: VirtualClock, early_ns: Callable[[], int], expected: type[Exception]) -> None:
        self._clock = clock
        self._early_ns = early_ns
        self._expected = expected
        self._queue: list[tuple[int, int, Timer]] = []
        self._sequence = 0
        self._timers: list[Timer] = []
        self.told: list[BaseException] = []  # what the exception handler was told of

    # What the driver asks ------------------------------------------------------------------------

    def time(self) -> float:
        return self._clock.true_ns / 1e9

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        return self._put(0, callback, args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        delay_ns = round(delay * 1e9)
        assert delay_ns >= 1_000_000, f"a timer of {delay_ns} ns: a loop that sleeps so little spins"
        timer = self._put(max(0, delay_ns - self._early_ns()), callback, args, delay_ns)
        self._timers.append(timer)
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context["exception"]
        self.told.append(error)
        if not isinstance(error, self._expected):
            raise error

    # What the simulation does --------------------------------------------------------------------

    def after_ns(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> None:
        """The simulation's own: to the nanosecond, never early, and not among ``timers``."""
        self._put(delay_ns, callback, args)

    def timers(self) -> list[Timer]:
        """Those of call_later that are still to come."""
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return self._timers

    def run_one(self) -> bool:
        """The next callback. False: there is none."""
        while self._queue:
            when_ns, _, timer = heapq.heappop(self._queue)
            if timer.cancelled:
                continue
            if when_ns > self._clock.true_ns:
                self._clock.true_ns = when_ns
            timer.cancelled = True
            timer.callback(*timer.args)
            return True
        return False

    def _put(self, delay_ns: int, callback: Callable[..., object], args: tuple[Any, ...], told_ns: int = 0) -> Timer:
        timer = Timer(callback, args, told_ns, self._clock.reading)
        self._sequence += 1
        heapq.heappush(self._queue, (self._clock.true_ns + delay_ns, self._sequence, timer))
        return timer
