"""The one clock of the process: nanoseconds, monotonic, of no particular origin.

Everything below the driver is handed the time as a number. A test hands the driver a clock of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], int]

MILLISECOND_NS: Final = 1_000_000
SECOND_NS: Final = 1_000_000_000

now_ns: Clock = time.monotonic_ns
