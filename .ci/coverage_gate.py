"""Every line of the core is run by the core's tests: python .ci/coverage_gate.py coverage.json

The core is ext/fairlead/core and the scanner of JSON keys; the lane's sources are run by the HTTP tests, of which this
knows nothing. There is no list of exceptions: a line that nothing can reach is taken out, or is a CHECK.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(report: str) -> int:
    files = json.loads(Path(report).read_text())["files"]
    low = 0
    for source in [*sorted(Path("ext/fairlead/core").glob("*.p[xy]*")), Path("ext/fairlead/wire/jsonscan.pyx")]:
        found = files.get(str(source))
        if found is None:
            if source.suffix == ".pyx":
                print(f"{source}: not measured: was the core built with FAIRLEAD_BUILD=trace?")
                low += 1
            continue  # a .pxd without code
        missing = ", ".join(map(str, found["missing_lines"]))
        low += bool(missing)
        print(f"{found['summary']['num_statements']:4}  {source}" + (f"  not run: {missing}" if missing else ""))
    print(f"{low} files with lines that no test runs")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
