"""From facts to numbers: what a request costs, how long it may take, and what to tell a client that has to wait.

Promise: pure functions and one meter, which is handed the time. The core knows flow 7, weight 3, cost 120; why it is
3 and 120 is decided here.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Mapping
from typing import Final

from fairlead.clock import MILLISECOND_NS, SECOND_NS
from fairlead.config import Config
from fairlead.errors import ApiError
from fairlead.identity import User
from fairlead.inspection import Facts
from fairlead.strict import digits, one_header, shown

REQUEST_ID: Final = "X-Request-Id"
REQUEST_TIMEOUT: Final = "X-Request-Timeout-Ms"
QUEUE_TIMEOUT: Final = "X-Queue-Timeout-Ms"
TIMEOUT_MAX_MS: Final = 86_400_000

RETRY_MIN_MS: Final = 1_000
RETRY_MAX_MS: Final = 59_000  # clients obey nothing from 60 s on
_WINDOW: Final = 30

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def cost(policy: str, facts: Facts) -> int:
    """What the request is charged. All policies of this version count sequences."""
    return facts.width


def core_numbers(policy: str, user: User, facts: Facts) -> tuple[int, int]:
    """(weight, cost) for the core. Only wfq gives users different shares."""
    return user.weight if policy == "wfq" else 1, cost(policy, facts)


def deadlines(headers: Mapping[str, str], now_ns: int, config: Config) -> tuple[int, bool, int]:
    """(queue deadline, never wait, total deadline), from the client's headers within the configuration's limits.

    Never wait (X-Queue-Timeout-Ms: 0): the request is refused if it can't start at once; its queue deadline is then
    what it would be without that header, so that it is not expired before anybody looks. Raises ApiError 400.
    """
    budget_ms = _milliseconds(headers, REQUEST_TIMEOUT, 1)
    queue_ms = _milliseconds(headers, QUEUE_TIMEOUT, 0)
    total_ns = config.timeouts.total_ns
    if budget_ms is not None:
        total_ns = min(total_ns, budget_ms * MILLISECOND_NS)
    queue_ns = min(config.queue.timeout_ns, total_ns)
    if queue_ms:
        queue_ns = min(queue_ns, queue_ms * MILLISECOND_NS)
    return now_ns + queue_ns, queue_ms == 0, now_ns + total_ns


def _milliseconds(headers: Mapping[str, str], name: str, low: int) -> int | None:
    text = one_header(headers, name)
    if text is None:
        return None
    value = digits(text, low, TIMEOUT_MAX_MS)
    if value is None:
        message = f"the header {name} is {shown(text)}: it must be an integer {low}..{TIMEOUT_MAX_MS} (milliseconds)"
        raise ApiError("invalid_header", message, param=name)
    return value


def sane_request_id(value: str | None) -> str | None:
    """The client's own id if it can stand in any log and header, else None."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def make_request_id() -> str:
    return secrets.token_hex(16)


class DrainRate:
    """How fast a pool gives slots back, measured over the last 30 s during which it worked.

    Its clock stands still while nothing runs: else the first queue after a quiet night would be told to wait for
    hours. Requests that ended are counted in buckets of one second of that clock. Where none ended in the window, the
    last rate that was measured holds, but no more than one request in the window.
    """

    __slots__ = ("_ended", "_last_ns", "_per_second", "_running", "_worked_ns")

    def __init__(self, now_ns: int) -> None:
        self._last_ns = now_ns
        self._worked_ns = 0
        self._running = 0
        self._ended = [0] * _WINDOW
        self._per_second: float | None = None

    def started(self, now_ns: int) -> None:
        """A request of the pool was given a slot."""
        self._advance(now_ns)
        self._running += 1

    def ended(self, now_ns: int, count: int = 1) -> None:
        """It gave the slot back. count = 0: without being done with it (it went back to the queue)."""
        self._advance(now_ns)
        self._running -= 1
        self._ended[self._worked_ns // SECOND_NS % _WINDOW] += count
        self._per_second = self.per_second(now_ns)

    def per_second(self, now_ns: int) -> float | None:
        """None: nothing was measured yet."""
        self._advance(now_ns)
        since_ns = max(0, self._worked_ns // SECOND_NS - _WINDOW + 1) * SECOND_NS
        # A request that begins and ends within one reading of the clock took some time nevertheless.
        worked_s = max(self._worked_ns - since_ns, MILLISECOND_NS) / SECOND_NS
        ended = sum(self._ended)
        if ended:
            return ended / worked_s
        return None if self._per_second is None else min(self._per_second, 1 / worked_s)

    def estimated_wait_s(self, now_ns: int, position: int) -> int | None:
        """Whole seconds, at least 1, until the request in that place is served; None: nothing was measured yet."""
        rate = self.per_second(now_ns)
        return None if rate is None else max(1, -int(-position // rate))

    def retry_after_ms(self, now_ns: int, position: int, rng: random.Random) -> int:
        """When to come back: around the time at which that place is served, spread so that not all come at once.

        1,000..59,000; a request is told the second to come in by ``whole_seconds``. 1..2 s if nothing was measured.
        """
        rate = self.per_second(now_ns)
        wait_ms = RETRY_MIN_MS if rate is None else min(max(position / rate * 1000, RETRY_MIN_MS), RETRY_MAX_MS)
        spread = rng.uniform(1.0, 2.0) if wait_ms == RETRY_MIN_MS else rng.uniform(0.8, 1.2)
        return min(max(int(wait_ms * spread), RETRY_MIN_MS), RETRY_MAX_MS)

    def _advance(self, now_ns: int) -> None:
        """Let the clock of work follow, and empty the buckets that come round again."""
        if self._running:
            second = self._worked_ns // SECOND_NS
            self._worked_ns += now_ns - self._last_ns
            reached = self._worked_ns // SECOND_NS
            for each in range(max(second, reached - _WINDOW) + 1, reached + 1):
                self._ended[each % _WINDOW] = 0
        self._last_ns = now_ns


def whole_seconds(milliseconds: int) -> int:
    """For Retry-After, rounded up: 1..59 from 1,000..59,000."""
    return -(-milliseconds // 1000)
