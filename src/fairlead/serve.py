"""Running the router as a process: addresses, signals, the lines a person sees first, and the end.

Promise: the first SIGINT or SIGTERM stops it gracefully and it exits with 0; a second one ends what still runs and it
exits with 128 + the signal's number, as shells do; a third one kills. What can't be had is told on one line. What a
person reads goes to standard error: standard output may be the request log.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import resource
import shlex
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click
import uvloop

from fairlead import __version__, discover
from fairlead.app import Router
from fairlead.config import Config, NodeConfig, load
from fairlead.config_schema import Address
from fairlead.effective import address_text
from fairlead.engines import ENGINES
from fairlead.lines import LineHandler, Lines, open_target
from fairlead.mocknode import MockNode, MockSettings, serving
from fairlead.records import LogError

log = logging.getLogger("fairlead.serve")

T = TypeVar("T")

# Where the router goes when its own default address is a node's: 8080 is llama.cpp's default too.
SPARE_PORT: Final = 8088
ANYWHERE: Final = ("0.0.0.0", "::")
HERE: Final = ("localhost", "127.0.0.1", "::1", *ANYWHERE)


class Signals:
    """SIGINT and SIGTERM of this process, while its loop runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stop = asyncio.Event()  # the first
        self.hurry = asyncio.Event()  # the second
        self.exit_code = 0
        self._loop = loop
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._came, number)

    def _came(self, number: signal.Signals) -> None:
        if not self.stop.is_set():
            self.stop.set()
            return
        self.exit_code = 128 + number
        self.hurry.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    async def stopped(self, seconds: float | None = None) -> bool:
        """Wait for the first signal. False: the time was over before it."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            return False
        return True


def run(main: Callable[[Signals], Awaitable[int]]) -> int:
    """Run a command's coroutine on uvloop; gives the exit code."""

    async def watched() -> int:
        return await main(Signals(asyncio.get_running_loop()))

    _open_standard_streams()
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(watched())


def _open_standard_streams() -> None:
    """A process may be started without them; then a connection would get their numbers, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _raise_file_limit() -> None:
    """Each request takes two descriptors, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS says "unlimited" and means 10,240
        log.debug("the limit on open files could not be raised")


async def unless(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What the work returns; None if the event came first, and then the work was cancelled and has ended."""
    task, waiter = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        waiter.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)


def started(address: str) -> str:
    return f"fairlead {__version__} listens on http://{address}"


# Addresses ---------------------------------------------------------------------------------------


def local_url(address: Address) -> str:
    """An address to which one can connect from this machine."""
    host, port = address
    return "http://" + address_text(("127.0.0.1" if host in ANYWHERE else host, port))


def occupant(address: Address, nodes: tuple[NodeConfig, ...]) -> NodeConfig | None:
    """The node that is configured to be where the router would listen."""
    host, port = address
    hosts = (*HERE, host) if host in HERE else (host, *ANYWHERE)
    for node in nodes:
        parts = urlsplit(node.url)
        if (parts.port or {"http": 80, "https": 443}[parts.scheme]) == port and parts.hostname in hosts:
            return node
    return None


def settle(config: Config, listen_is_default: bool) -> Config:
    """Keep the router's addresses apart from its nodes': one that is its own node would send requests in circles."""
    if listen_is_default and occupant(config.listen, config.nodes) is not None:
        host, port = config.listen
        free = (p for p in range(SPARE_PORT, SPARE_PORT + 100) if occupant((host, p), config.nodes) is None)
        config = replace(config, listen=(host, next(free)))
        click.echo(
            f"port {port} is a node's: the router takes {config.listen[1]} (choose with --listen HOST:PORT)", err=True
        )
    if config.admin == config.listen and config.listen[1] != 0:
        raise click.UsageError(f"listen and admin are both {address_text(config.listen)}: give them different ports")
    for key, address in (("listen", config.listen), ("admin", config.admin)):
        node = occupant(address, config.nodes) if address is not None and address[1] != 0 else None
        if node is not None and address is not None:
            raise click.UsageError(
                f"{key}: the router would listen on {address_text(address)}, where node {node.name} is said to be: "
                f"give another with --{key} HOST:PORT or correct the node's url"
            )
    return config


class AddressTaken(click.ClickException):
    """One of the router's addresses can't be had. which: "listen" or "admin"."""

    def __init__(self, which: str, address: Address, error: OSError) -> None:
        self.which = which
        self.in_use = error.errno == errno.EADDRINUSE
        advice = f"choose another with --{which} HOST:PORT" + (", or --admin none" if which == "admin" else "")
        super().__init__(f"{which}: {address_text(address)} {why_not(error)}: {advice}")


def why_not(error: OSError) -> str:
    """Why an address can't be had; asyncio's own words repeat the address."""
    if error.errno == errno.EADDRINUSE:
        return "is in use by another program"
    number = error.errno or 0  # a name that is not found has a negative one, not an errno
    return f"can't be listened on: {os.strerror(number) if number > 0 else error.strerror or error}"


async def start(router: Router, config: Config) -> None:
    """Raises AddressTaken, or a ClickException if its log can't be written; nothing of the router is left then."""
    try:
        await router.start()
    except LogError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        # The admin address comes first, so whoever has one of the two got past it.
        if config.admin is not None and "admin" not in router.addresses:
            raise AddressTaken("admin", config.admin, error) from None
        raise AddressTaken("listen", config.listen, error) from None


# Serving -----------------------------------------------------------------------------------------


async def search(skip: int | None) -> list[str]:
    """URLs of the engines on this machine, told as they are found. Raises UsageError if there are none."""
    findings = await discover.find(discover.PORTS, skip)
    found = [finding.url for finding in findings if finding.url]
    click.echo(f"looked for engines on {discover.HOST}:", err=True)
    for finding in findings:
        click.echo(f"  {finding.port:<5}  {finding.usual + ':':<10}  {finding.what}", err=True)
    if not found:
        raise click.UsageError(
            "no engine was found: name one with --node http://HOST:PORT, or see simulated ones with --demo"
        )
    return found


def greeting(router: Router) -> str:
    """The block that is printed on start."""
    public, admin = router.addresses["public"], router.addresses.get("admin")
    lines = [f"{started(address_text(public))}, admin {'off' if admin is None else local_url(admin)}"]
    nodes = router.registry.describe()
    width = max(len(node["name"]) for node in nodes)
    lines += [f"  {node['name']:<{width}}  {describe(node)}" for node in nodes]
    models = router.registry.models()
    lines += ["try:", *(f"  {line}" for line in example(local_url(public), models[0]["id"] if models else None))]
    return "\n".join(lines)


def describe(node: dict[str, Any]) -> str:
    """One node on one line, as the registry describes it."""
    if node["error"]:
        return f"down: {node['error']}"
    title = ENGINES[node["engine"]].title
    slots = f"{node['slots']} slot{'' if node['slots'] == 1 else 's'}"
    return f"{node['state']}: {title}, {slots}, {', '.join(node['models']) or 'no models'}"


def example(url: str, model: str | None) -> list[str]:
    """How to try it with curl."""
    if model is None:
        return [f"curl {url}/v1/models"]
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    return [
        f"curl -i {url}/v1/chat/completions \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(body)}",
    ]


async def serve(
    signals: Signals,
    config: Config | None,
    overrides: dict[str, Any],
    *,
    listen_is_default: bool,
    seconds: float | None,
) -> int:
    """Serve until a signal comes or the time is over. config None: search for nodes. Raises ClickException."""
    if config is None:
        urls = await unless(signals.stop, search(overrides["listen"][1] if "listen" in overrides else None))
        if urls is None:
            return 0
        config = replace(load(None, nodes=urls, env={}), **overrides)
    config = settle(config, listen_is_default)
    async with logging_to_stderr(config.log.level):
        router = Router(config)
        try:
            await unless(signals.stop, start(router, config))
            if not signals.stop.is_set():
                click.echo(greeting(router), err=True)
                await signals.stopped(seconds)
        finally:
            await stop(router, signals)
    return signals.exit_code


@asynccontextmanager
async def logging_to_stderr(level: str) -> AsyncIterator[None]:
    """Standard error may be a pipe that nobody reads, and the router must not wait for that either."""
    try:
        fd = open_target("stderr")
    except OSError:  # it is closed: there is nobody to tell
        yield
        return
    lines = Lines("the log", fd)
    handler = LineHandler(lines)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        await lines.close()


async def stop(router: Router, signals: Signals) -> None:
    """Gracefully, until a second signal comes."""
    running = router.gateway.running()
    if running:
        log.warning("stopping; requests still running: %d; a second signal ends them", running)
    await unless(signals.hurry, router.stop())
    if signals.hurry.is_set():
        await router.stop(0.0)


# Looking at nodes, being one ---------------------------------------------------------------------


async def probe(signals: Signals, config: Config) -> int:
    """Ask the nodes as the router would, without listening. 1: one of them can't be used."""
    router = Router(config)
    try:
        await unless(signals.stop, router.registry.start())
        nodes = router.registry.describe()
    finally:
        await router.stop(0.0)
    if signals.stop.is_set():
        return 128 + signal.SIGINT
    width = max(len(node["name"]) for node in nodes)
    for node in nodes:
        click.echo(f"{node['name']:<{width}}  {describe(node)}")
    bad = [node["name"] for node in nodes if node["error"]]
    if bad:
        raise click.ClickException(f"{len(bad)} of {len(nodes)} nodes can't be used: {', '.join(bad)}")
    return 0


async def mock_node(signals: Signals, settings: MockSettings, port: int, seconds: float | None) -> int:
    """Serve a simulated engine on loopback until a signal comes or the time is over."""
    try:
        async with serving(MockNode(settings), discover.HOST, port) as got:
            click.echo(f"simulated node {settings.name} on http://{discover.HOST}:{got}: {', '.join(settings.models)}")
            click.echo(f"  fairlead serve --node http://{discover.HOST}:{got}")
            await signals.stopped(seconds)
    except OSError as error:
        raise click.ClickException(f"port {port} {why_not(error)}: choose another with --port") from None
    return signals.exit_code
