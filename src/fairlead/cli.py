"""The command line: what is asked for, and what the shell is told.

Promise: exit code 0, 1 (it ran and failed) or 2 (usage or configuration), and on failure one line that says what
was wrong and what to do. Whatever is heavy is imported by the command that needs it, so that ``--help`` is there at
once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fairlead._version import __version__

if TYPE_CHECKING:
    from fairlead.config import Config
    from fairlead.config_schema import Kind

USAGE: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT


class BadConfig(click.ClickException):
    """The message has file, line and key."""

    exit_code = USAGE


def as_configured(kind_name: str) -> Callable[[str], Any]:
    """Reads an option as the configuration reads it. kind_name: a Kind of config_schema."""

    def read(text: str) -> Any:
        from fairlead import config_schema

        kind: Kind[Any] = getattr(config_schema, kind_name)
        try:
            return kind.parse(text)
        except ValueError as error:
            reason = f" ({error})" if error.args else ""
            raise click.BadParameter(f"{text!r} is not allowed{reason}: choose {kind.allowed}") from None

    return read


def number(low: int, high: int, *, whole: bool = True, above: bool = False) -> Callable[[str], Any]:
    """Reads an option that is a number low..high; above: and not low itself. Unlike click's, it is no number if it is
    nan, and its range does not fill the help."""

    def read(text: str) -> Any:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high or (above and value == low):
            kind = "a whole number" if whole else "a number"
            span = f"above {low} and up to {high}" if above else f"{low}..{high}"
            raise click.BadParameter(f"{text!r} is not allowed: choose {kind} {span}")
        return value

    return read


def some_name(text: str) -> str:
    if not text.strip():
        raise click.BadParameter(f"{text!r} is not allowed: choose a name that is not blank")
    return text


LISTEN: Final = as_configured("ADDRESS")
ADMIN: Final = as_configured("ADMIN_ADDRESS")
SPAN: Final = as_configured("GRACE")

run_for = click.option(
    "--for", "span_ns", type=SPAN, metavar="DURATION", help="End by itself after this time, such as 30s."
)


def main() -> None:
    """The ``fairlead`` command. Ends the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; gives the exit code."""
    try:
        code = fairlead.main(list(arguments), prog_name="fairlead", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        help_hint = f" (see {context.command_path} --help)" if context is not None else ""
        click.echo(f"fairlead: {message}{help_hint}", err=True)
        return error.exit_code


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fairlead", message="%(prog)s %(version)s")
@click.pass_context
def fairlead(context: click.Context) -> int | None:
    """Route inference requests of many users to few nodes: a fair, bounded queue.

    \b
    Example:
      fairlead serve --demo
    """
    if context.invoked_subcommand is not None:
        return None
    click.echo(context.get_help(), err=True)
    return USAGE


@fairlead.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--node", "nodes", multiple=True, metavar="URL", help="A node, beside those of CONFIG. Repeatable.")
@click.option("--demo", is_flag=True, help="Three simulated nodes, three simulated users, a live table.")
@click.option("--listen", type=LISTEN, metavar="HOST:PORT", help="Where clients come.  [127.0.0.1:8080]")
@click.option("--admin", type=ADMIN, metavar="HOST:PORT|none", help="Metrics and admin API.  [127.0.0.1:8081]")
@run_for
@click.pass_context
def serve(
    context: click.Context,
    config: Path | None,
    nodes: tuple[str, ...],
    demo: bool,
    listen: Any,
    admin: Any,
    span_ns: int | None,
) -> int:
    """Start the router.

    Nodes come from CONFIG and --node. Without either, it looks for engines on
    this machine: ports 8000 (vLLM), 30000 (SGLang), 8080 (llama.cpp), 11434
    (Ollama). --listen and --admin win over CONFIG.

    SIGINT or SIGTERM: what waits is sent away, what runs may end (timeouts.drain),
    exit code 0; a second signal ends it at once.

    \b
    Example:
      fairlead serve --node http://10.0.0.11:8000 --node http://10.0.0.12:8000
    """
    given: dict[str, Any] = {"listen": listen, "admin": admin}
    # "none" is a value of --admin that is read as None.
    overrides = {name: value for name, value in given.items() if _was_given(context, name)}
    seconds = None if span_ns is None else span_ns / 1e9
    if demo:
        if config is not None or nodes:
            raise click.UsageError("--demo brings its own nodes: leave CONFIG and --node out", context)
        return _demo(overrides, seconds)
    settings = _load(config, nodes, overrides) if config is not None or nodes else None

    from fairlead import serve as serving

    return serving.run(
        lambda signals: serving.serve(
            signals,
            settings,
            overrides,
            listen_is_default=config is None and "listen" not in overrides,
            seconds=seconds,
        )
    )


@fairlead.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--probe", is_flag=True, help="Ask every node what it is; exit code 1 if one does not answer.")
def check(config: Path, probe: bool) -> int:
    """Check a configuration and print it with its defaults.

    What is printed can be loaded again; the keys of nodes are masked.

    \b
    Example:
      fairlead check --probe fairlead.yaml
    """
    settings = _load(config, (), {})

    from fairlead.effective import effective

    click.echo(effective(settings), nl=False)
    if not probe:
        return 0

    from fairlead import serve as serving

    return serving.run(lambda signals: serving.probe(signals, settings))


@fairlead.command("mock-node")
@click.option(
    "--port", type=number(0, 65535), default=8000, metavar="N", help="Where it listens; 0: any that is free. [8000]"
)
@click.option("--name", default="mock", metavar="NAME", help="What it calls itself. [mock]")
@click.option(
    "--models",
    type=some_name,
    multiple=True,
    default=["demo"],
    metavar="NAME",
    help="What it serves. Repeatable. [demo]",
)
@click.option("--slots", type=number(1, 65536), default=4, metavar="N", help="Requests at once. [4]")
@click.option("--ttft", type=SPAN, metavar="DURATION", default="50ms", help="To the first token. [50ms]")
@click.option("--token-time", type=SPAN, metavar="DURATION", default="10ms", help="Per token, alone. [10ms]")
@click.option("--batch-time", type=SPAN, metavar="DURATION", default="1ms", help="More per neighbour. [1ms]")
@run_for
def mock_node(
    port: int,
    name: str,
    models: tuple[str, ...],
    slots: int,
    ttft: int,
    token_time: int,
    batch_time: int,
    span_ns: int | None,
) -> int:
    """Start a simulated engine, to try the router without a GPU.

    It listens on 127.0.0.1, has an engine's timing, slots, streams and metrics (under vLLM's names)
    and makes its words up; everything it answers says that it is simulated.

    \b
    Example:
      fairlead mock-node --port 9001 --slots 2 --token-time 20ms
    """
    from fairlead import serve as serving
    from fairlead.mocknode import MockSettings

    settings = MockSettings(
        name=name,
        models=models,
        slots=slots,
        ttft_ms=ttft / 1e6,
        token_ms=token_time / 1e6,
        batch_ms=batch_time / 1e6,
    )
    seconds = None if span_ns is None else span_ns / 1e9
    return serving.run(lambda signals: serving.mock_node(signals, settings, port, seconds))


@fairlead.command()
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Requests to replay, CSV or JSONL. [see README]"
)
@click.option("--synthetic", metavar="MIX", help="Or draw them: USER:RATE/s:INPUT:OUTPUT,... in tokens.")
@click.option(
    "--duration",
    "duration_s",
    type=number(0, 10**6, whole=False, above=True),
    default=600,
    metavar="S",
    help="How long they are drawn for, in seconds. [600]",
)
@click.option(
    "--scale",
    type=number(0, 10**6, whole=False, above=True),
    default=1,
    metavar="X",
    help="Multiply the rate of arrivals. [1]",
)
@click.option(
    "--zipf-users",
    type=number(1, 2**16),
    default=100,
    metavar="N",
    help="Users to draw for a trace that names none. [100]",
)
@click.option(
    "--compare", "policies", metavar="LIST", default="wfq", help="Policies: fifo,round_robin,wfq,token_wfq. [wfq]"
)
@click.option("--weights", default="", metavar="LIST", help="As alice=3,bob=2; all others have 1.")
@click.option("--nodes", type=number(1, 2**14), default=1, metavar="N", help="Nodes, all alike. [1]")
@click.option(
    "--node", "node_model", metavar="LIST", default="", help="Each is: slots=23,token-ms=45.1,... [see README]"
)
@click.option(
    "--queue-limit", type=number(0, 2**24), default=0, metavar="N", help="Requests that may wait; 0: any number. [0]"
)
@click.option(
    "--timeout-s",
    type=number(0, 10**6, whole=False),
    default=0,
    metavar="S",
    help="Longest wait in the queue; 0: any. [0]",
)
@click.option("--prices", default="1:2", metavar="IN:OUT", help="Of a token of a prompt and of an answer, 0..4. [1:2]")
@click.option("--seed", type=number(0, 2**63 - 1), default=1, metavar="N", help="For everything that is drawn. [1]")
@click.option("--json", "json_path", metavar="FILE", help="Write all figures; -: to standard output, no table.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), metavar="FILE", help="Draw it: .png or .svg.")
@click.pass_context
def simulate(context: click.Context, /, **options: Any) -> int:
    """Replay requests through the router's scheduler: who waits?

    \b
    Example:
      fairlead simulate --trace arena.csv --compare fifo,wfq --node slots=8
    """
    if (options["trace"] is None) == (options["synthetic"] is None):
        raise click.UsageError("give --trace FILE or --synthetic MIX, one of the two", context)

    from fairlead.errors import ConfigError
    from fairlead.simulate_run import simulate_and_report

    try:
        given = {name for name in options if _was_given(context, name)}
        return simulate_and_report(options | {"given": given}, click.echo)
    except ConfigError as error:
        raise BadConfig(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}: choose another place to write to") from None


@fairlead.command()
@click.option("--url", metavar="URL", help="What to load. Without it: this router, on this machine.")
@click.option("--model", metavar="NAME", help="What to ask for. [the first that it lists]")
@click.option("--header", "headers", multiple=True, metavar="TEXT", help="'Name: value', such as a key. Repeatable.")
@click.option("--connections", type=number(1, 2**16), default=64, metavar="N", help="Requests at once. [64]")
@click.option(
    "--rate",
    type=number(0, 10**6, whole=False),
    default=0,
    metavar="R",
    help="Requests/s; 0: the next when one is answered. [0]",
)
@click.option("--users", type=number(1, 10**7), default=1, metavar="N", help="Names in X-User-Id, in turn. [1]")
@click.option("--stream", is_flag=True, help="Ask for streams.")
@click.option("--tokens", type=number(1, 999_999), default=64, metavar="N", help="max_tokens of a request. [64]")
@click.option("--body", type=number(0, 2**24), default=1024, metavar="BYTES", help="Length of a request's body. [1024]")
@click.option("--for", "span_ns", type=SPAN, metavar="DURATION", help="How long. [10s; without --url 2s a turn]")
@click.option(
    "--pid",
    "pids",
    type=number(1, 2**31 - 1),
    multiple=True,
    metavar="N",
    help="Process whose CPU to tell. Repeatable.",
)
@click.option("--cpu", type=number(0, 2**16), metavar="N", help="Core to stay on. [any]")
@click.option("--json", "json_path", metavar="FILE", help="Write all figures; -: to stdout, the text to stderr.")
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> int:
    """Load an endpoint, or this router: rate, latency, CPU, faults.

    \b
    Example:
      fairlead bench --url http://127.0.0.1:8080 --users 100 --stream
    """
    alone = ("url", "span_ns", "json_path")
    for option in context.command.params:
        if options["url"] is None and option.name not in alone and _was_given(context, str(option.name)):
            raise click.UsageError(f"{option.opts[0]} needs --url", context)
    try:
        from fairlead.bench import BenchError
        from fairlead.bench_run import run as run_bench
    except ModuleNotFoundError as error:
        raise click.ClickException(f"bench needs Linux ({error.name} is not built elsewhere)") from None
    try:
        return run_bench(options, click.echo)
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}: choose another place to write to") from None


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _load(path: Path | None, nodes: tuple[str, ...], overrides: dict[str, Any]) -> Config:
    from dataclasses import replace

    from fairlead.config import load
    from fairlead.errors import ConfigError

    try:
        return replace(load(path, nodes=nodes, env=os.environ), **overrides)
    except ConfigError as error:
        raise BadConfig(str(error)) from None


def _demo(overrides: dict[str, Any], seconds: float | None) -> int:
    from fairlead import serve as serving
    from fairlead.demo import demo

    return serving.run(lambda signals: demo(signals, overrides, seconds))
