"""How fast a pool works, and when it is worth to come back.

Promise: an estimate that is wrong by what changes, never by what stood still. It is handed the time.
"""

from __future__ import annotations

import random
from typing import Final

from fairlead.clock import MILLISECOND_NS, SECOND_NS

RETRY_MIN_MS: Final = 1_000
RETRY_MAX_MS: Final = 59_000  # clients obey nothing from 60 s on
# Of these, C knows the value.
_WINDOW: Final = 30
_SECOND_NS: Final = SECOND_NS
_SHORTEST_NS: Final = MILLISECOND_NS


class DrainRate:
    """How fast a pool gives slots back, measured over the last 30 s during which it worked.

    Its clock stands still while nothing runs: else the first queue after a quiet night would be told to wait for
    hours. Requests that ended are counted in buckets of one second of that clock. Where none ended in the window, the
    last rate that was measured holds, but no more than one request in the window.
    """

    def __init__(self, now_ns: int) -> None:
        self._last_ns = now_ns
        self._worked_ns = 0
        self._second = 0  # of the clock of work
        self._running = 0
        self._ended = [0] * _WINDOW
        self._in_window = 0  # their sum
        self._measured, self._measured_ns = 0, 1  # when the last one ended: so many, in so many ns

    def started(self, now_ns: int) -> None:
        """A request of the pool was given a slot."""
        self._advance(now_ns)
        self._running += 1

    def ended(self, now_ns: int, count: int = 1) -> None:
        """It gave the slot back. count = 0: without being done with it (it went back to the queue)."""
        self._advance(now_ns)
        self._running -= 1
        self._ended[self._second % _WINDOW] += count
        self._in_window += count
        self._measured, self._measured_ns = self._in_window, self._window_ns()

    def per_second(self, now_ns: int) -> float | None:
        """None: nothing was measured yet."""
        return self._rate(now_ns) or None

    def _rate(self, now_ns: int) -> float:
        """The same; 0: nothing was measured yet."""
        self._advance(now_ns)
        window_s = self._window_ns() / _SECOND_NS
        if self._in_window:
            return self._in_window / window_s
        return min(self._measured / (self._measured_ns / _SECOND_NS), 1 / window_s) if self._measured else 0.0

    def estimated_wait_s(self, now_ns: int, position: int) -> int | None:
        """Whole seconds, at least 1, until the request in that place is served; None: nothing was measured yet."""
        rate = self._rate(now_ns)
        if not rate:
            return None
        wait_s = -int(-position // rate)
        return wait_s if wait_s > 1 else 1

    def retry_after_ms(self, now_ns: int, position: int, rng: random.Random) -> int:
        """When to come back: around the time at which that place is served, spread so that not all come at once.

        1,000..59,000; a request is told the second to come in by ``whole_seconds``. 1..2 s if nothing was measured.
        """
        rate = self.per_second(now_ns)
        wait_ms = RETRY_MIN_MS if rate is None else min(max(position / rate * 1000, RETRY_MIN_MS), RETRY_MAX_MS)
        spread = rng.uniform(1.0, 2.0) if wait_ms == RETRY_MIN_MS else rng.uniform(0.8, 1.2)
        return min(max(int(wait_ms * spread), RETRY_MIN_MS), RETRY_MAX_MS)

    def _window_ns(self) -> int:
        """The time that the window covers by now."""
        since_ns = max(0, self._second - _WINDOW + 1) * _SECOND_NS
        # A request that begins and ends within one reading of the clock took some time nevertheless.
        return max(self._worked_ns - since_ns, _SHORTEST_NS)

    def _advance(self, now_ns: int) -> None:
        """Let the clock of work follow."""
        if self._running:
            self._worked_ns += now_ns - self._last_ns
            reached = self._worked_ns // _SECOND_NS
            if reached != self._second:
                self._empty(reached)
        self._last_ns = now_ns

    def _empty(self, reached: int) -> None:
        """The buckets that come round again."""
        for each in range(max(self._second, reached - _WINDOW) + 1, reached + 1):
            self._in_window -= self._ended[each % _WINDOW]
            self._ended[each % _WINDOW] = 0
        self._second = reached


def whole_seconds(milliseconds: int) -> int:
    """For Retry-After, rounded up: 1..59 from 1,000..59,000."""
    return -(-milliseconds // 1000)
