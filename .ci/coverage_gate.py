"""Every compiled source is covered by its tests, line by line: python .ci/coverage_gate.py coverage.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LEAST_PERCENT = 97.0


def main(report: str) -> int:
    files = json.loads(Path(report).read_text())["files"]
    low = 0
    for source in sorted(Path("ext/fairlead").rglob("*.pyx")):
        found = files.get(str(source))
        if found is None:
            print(f"{source}: not measured: was the core built with FAIRLEAD_BUILD=trace?")
            low += 1
            continue
        percent = found["summary"]["percent_covered"]
        low += percent < LEAST_PERCENT
        missing = ", ".join(map(str, found["missing_lines"]))
        print(f"{percent:5.1f} %  {source}" + (f"  missing {missing}" if missing else ""))
    print(f"{low} under {LEAST_PERCENT} %")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
