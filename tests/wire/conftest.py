"""Fixtures of the tests of the byte stream."""

from __future__ import annotations

import sys
from pathlib import Path

# The helpers beside this file.
sys.path.append(str(Path(__file__).parent))
