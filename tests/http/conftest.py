"""Fixtures of the HTTP tests."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

# The helpers beside this file; a package called http would hide the standard library's.
sys.path.append(str(Path(__file__).parent))

GRACE_S = 1.0


def open_files() -> dict[str, str]:
    """Every open descriptor of this process and what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            what = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the directory that was just being listed
            continue
        if what != "/dev/null":  # libuv keeps one in reserve for the day when there are none left
            found[name] = what
    return found


async def watched(main: Callable[[], Awaitable[Any]]) -> Any:
    """Runs main; fails if it leaves a task or a descriptor, or if anything reached the loop's exception handler."""
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    before = open_files()
    result = await main()
    until = loop.time() + GRACE_S
    while True:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        left = {name: what for name, what in open_files().items() if before.get(name) != what}
        if not (tasks or left) or loop.time() > until:
            break
        await asyncio.sleep(0.01)
    gc.collect()  # an exception that nobody fetched reports itself when its task is freed
    assert not tasks, f"tasks left: {tasks}"
    assert not left, f"descriptors left: {left}"
    assert not errors, f"reached the loop's exception handler: {errors}"
    return result


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On which loops: users have uvloop's; in profile ci also asyncio's, which is stricter about how it is used."""
    marked = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "no_leaks" in metafunc.fixturenames and "no_leaks" not in marked:
        loops = ["asyncio", "uvloop"] if metafunc.config.getoption("profile") == "ci" else ["uvloop"]
        metafunc.parametrize("no_leaks", loops, indirect=True)


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """``no_leaks(main)`` runs the coroutine function on a fresh loop of either kind and returns what it returns.

    It fails if a task or a descriptor is left, or if anything reached the loop's exception handler unless main set its
    own.
    """
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(main: Callable[[], Awaitable[Any]]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(watched(main))

    return run


@pytest.fixture(scope="session")
def tls_contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server on 127.0.0.1, and for a client that trusts nobody else."""
    from raw_server import self_signed  # found only through the path above

    return self_signed(tmp_path_factory.mktemp("tls"))
