"""Our node as a process: python -m fairlead.bench_node PORTS CONNECTIONS

It listens on so many ports, prints them on one line, and serves as long as the process that started it is there.
"""

from __future__ import annotations

import os
import sys

from fairlead.bench_machine import raise_file_limit
from fairlead.load.node import Node

MODEL = "bench"


def main(ports: str, connections: str) -> None:
    raise_file_limit()
    parent = os.getppid()
    node = Node([0] * int(ports), model=MODEL, connections_max=int(connections))
    print(*node.ports, flush=True)
    while os.getppid() == parent:
        node.run(1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
