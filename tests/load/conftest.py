"""Fixtures of the tests of ``fairlead bench``: a node that serves in a thread, and loads that close."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # load_servers, beside this file

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """``serve(slots=1)`` is a Node that runs in a thread until the test ends."""
    from fairlead.load.node import Node

    with ExitStack() as stack:

        def begin(ports: tuple[int, ...] = (0,), **options: Any) -> Any:
            node = Node(ports, **options)
            thread = threading.Thread(target=node.run, args=(60.0,))
            thread.start()
            stack.callback(node.close)
            stack.callback(thread.join)
            stack.callback(node.stop)
            return node

        yield begin


@pytest.fixture
def loads() -> Iterator[Callable[..., Any]]:
    """``loads(port, connections=8)`` is a Load on 127.0.0.1, with the fields of Work, closed when the test ends."""
    from fairlead.bench import Load, Target, Work

    with ExitStack() as stack:

        def begin(port: int, *, echo: bool | None = True, host: str = "127.0.0.1", **work: Any) -> Any:
            return stack.enter_context(Load(Target(host, port), Work(**work), "bench", echo=echo))

        yield begin
