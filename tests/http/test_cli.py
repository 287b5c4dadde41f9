"""The command as a shell runs it: real processes, their exit codes, and what they say."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fairlead.config import load
from fairlead.effective import MASK

FAIRLEAD = [sys.executable, "-m", "fairlead"]
START_S = 15.0  # interpreters start slowly on a busy machine
LISTENS = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")


class Process:
    """A running command; out and err are what it has said so far."""

    def __init__(self, directory: Path, command: list[str], **options: Any) -> None:
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            options = {"stdout": out, "stderr": err} | options
            environment = os.environ | {"COLUMNS": "80", "PYTHONUNBUFFERED": "1"}
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, **options)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def said(self, pattern: re.Pattern[str] | str) -> re.Match[str]:
        until = time.monotonic() + START_S
        while not (match := re.search(pattern, self.out + self.err)):
            assert self.popen.poll() is None and time.monotonic() < until, (self.popen.poll(), self.out, self.err)
            time.sleep(0.02)
        return match

    def port(self) -> int:
        return int(self.said(LISTENS)[1])

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def ended(self, within_s: float = START_S) -> int:
        return self.popen.wait(within_s)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts ``fairlead ...``; whatever still runs at the end of the test is killed."""
    started: list[Process] = []

    def begin(*arguments: str, command: list[str] = FAIRLEAD, **options: Any) -> Process:
        directory = tmp_path / f"process-{len(started)}"
        directory.mkdir()
        started.append(Process(directory, [*command, *arguments], **options))
        return started[-1]

    yield begin
    for process in started:
        process.popen.kill()
        process.popen.wait()


@pytest.fixture
def run(launch: Callable[..., Process]) -> Callable[..., tuple[int, str, str]]:
    """(exit code, stdout, stderr) of a command that ends by itself."""

    def ends(*arguments: str, **options: Any) -> tuple[int, str, str]:
        process = launch(*arguments, **options)
        return process.ended(), process.out, process.err

    return ends


@contextmanager
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with taken_port() as port:
        return port


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def one_line(err: str) -> str:
    assert err.startswith("fairlead: ") and err.count("\n") == 1, err
    return err.removesuffix("\n")


# Help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["serve"], ["check"], ["mock-node"], ["simulate"], ["bench"]], ids=" ".join)
def test_help_fits_a_screen_and_has_one_example(run: Any, command: list[str]) -> None:
    code, out, err = run(*command, "--help")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert out.count("Example:\n") == 1
    assert not re.search(r"^  \S+ .*\.\.\.$", out.partition("Commands:")[2], re.M), "a command's line is cut off"


def test_help_imports_nothing_heavy(run: Any) -> None:
    script = (
        "import sys; from fairlead.cli import run; assert run(['--help']) == 0;"
        "print({'aiohttp', 'asyncio', 'orjson', 'rich', 'uvloop', 'yaml'} & set(sys.modules))"
    )
    code, out, err = run(command=[sys.executable, "-c", script])
    assert (code, out.splitlines()[-1], err) == (0, "set()", "")


def test_no_command_shows_the_help_and_is_a_mistake(run: Any) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Commands:" in err


# Usage and configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("nodes: [http://127.0.0.1:9]\nqueue: {max_waitng: 3}\n", 2, ["queue.max_waitng", "max_waiting"]),
        ("nodes: [http://127.0.0.1:9]\nlimits:\n  width: many\n", 3, ["limits.width", "'many'", "1..1024"]),
        ("nodes:\n  - {url: 'http://127.0.0.1:9', api_key: '${NO_SUCH_KEY}'}\n", 2, ["api_key", "NO_SUCH_KEY"]),
        (
            "nodes:\n  - {name: a, url: 'http://127.0.0.1:9'}\n  - {name: a, url: 'http://127.0.0.1:10'}\n",
            3,
            ["nodes[1]", "'a'", ":2"],
        ),
    ],
    ids=["unknown key", "wrong type", "missing variable", "two of one name"],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_bad_file_is_told_on_one_line(
    run: Any, tmp_path: Path, command: str, text: str, line: int, told: list[str]
) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    code, out, err = run(command, str(path))
    assert (code, out) == (2, "")
    message = one_line(err)
    assert message.startswith(f"fairlead: {path}:{line}: ")
    assert all(word in message for word in told), message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serv"], "No such command 'serv'"),
        (["serve", "--nod", "x"], "--node"),
        (["serve", "--listen", "8080"], "choose HOST:PORT"),
        (["serve", "--admin", "0.0.0.0:8081"], "loopback"),
        (["serve", "--for", "10"], "duration"),
        (["serve", "--node", "ftp://x"], "http(s)://"),
        (["serve", "--demo", "--node", "http://127.0.0.1:9"], "--demo brings its own nodes"),
        (["serve", "--node", "http://localhost:9", "--listen", "127.0.0.1:9"], "localhost:9"),
        (["serve", "--node", "http://127.0.0.1:9", "--listen", "0.0.0.0:9"], "127.0.0.1:9"),
        (["serve", "--node", "http://127.0.0.1:9", "--admin", "127.0.0.1:9"], "--admin"),
        (["check", "/nonexistent.yaml"], "/nonexistent.yaml: can't be read"),
        (["check"], "CONFIG"),
        (["mock-node", "--slots", "0"], "'--slots': '0' is not allowed: choose a whole number 1..65536"),
        (["mock-node", "--port", "abc"], "'--port': 'abc' is not allowed: choose a whole number 0..65535"),
        (["mock-node", "--models", ""], "'--models': '' is not allowed: choose a name that is not blank"),
        (["bench", "--url", "http://127.0.0.1:9", "--rate", "nan"], "'nan' is not allowed: choose a number 0..1000000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_usage_error_is_told_on_one_line(run: Any, arguments: list[str], told: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert told in one_line(err)


def test_check_prints_a_file_that_loads_to_the_same_but_for_secrets(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "listen: '[::1]:9000'\nadmin: none\ntrusted_proxies: [10.0.0.0/8]\n"
        "nodes:\n  - http://10.0.0.1:8000\n"
        "  - {name: b, url: 'https://b', slots: 3, engine: vllm, api_key: hush, paths: [/x]}\n"
        "queue: {policy: fifo, max_bytes: 3MiB, timeout: 90s, no_node_wait: 0s, tiers: {low: 2}, promote_after: 90s,\n"
        "  tier_policy: strict, within_user: deadline, max_in_flight_per_pool: 3}\nidentity: [{body: user}]\n"
        "users: {default: {weight: 2, team: 'a b'}, zoë: {max_in_flight: 4, priority: low, team: none}}\n"
        "teams: {'a b': {weight: 2, max_in_flight: 7}, 'ü': }\nlimits: {body: 70000}\n"
        "health: {period: 1500ms}\ntimeouts: {idle: 2h}\nlog: {level: debug, requests: ./r}\n"
    )
    code, out, err = run("check", str(path))
    assert (code, err) == (0, "")
    assert "hush" not in out and f"api_key: '{MASK}'" in out
    again = tmp_path / "again.yaml"
    again.write_text(out)
    expected = tmp_path / "expected.yaml"
    expected.write_text(path.read_text().replace("hush", f"'{MASK}'"))
    assert load(again, env={}) == load(expected, env={})


def test_check_probe_lists_nodes_and_fails_if_one_does_not_answer(
    run: Any, launch: Callable[..., Process], tmp_path: Path
) -> None:
    mock = launch("mock-node", "--port", "0", "--models", "m1", "--models", "m2", "--for", "30s")
    port = int(mock.said(r"http://127\.0\.0\.1:(\d+)")[1])
    path = tmp_path / "f.yaml"
    alive = f"nodes:\n  - {{name: alive, url: 'http://127.0.0.1:{port}'}}\n"
    path.write_text(alive)
    code, out, err = run("check", "--probe", str(path))
    assert code == 0, err
    assert "alive  up: simulated node, 4 slots, m1, m2\n" in out
    path.write_text(f"{alive}  - {{name: dead, url: 'http://127.0.0.1:{free_port()}'}}\n")
    code, out, err = run("check", "--probe", str(path))
    assert code == 1
    assert "alive  up: simulated node" in out
    assert "dead   down: connection refused\n" in out
    assert err.splitlines()[-1] == "fairlead: 1 of 2 nodes can't be used: dead"


# Serving -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["listen", "admin"])
def test_a_port_in_use_is_named(run: Any, which: str) -> None:
    with taken_port() as port:
        addresses = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"} | {which: f"127.0.0.1:{port}"}
        options = [word for name, address in addresses.items() for word in (f"--{name}", address)]
        for command in (["serve", "--node", "http://127.0.0.1:9"], ["serve", "--demo"]):
            code, out, err = run(*command, *options)
            assert (code, out) == (1, "")
            assert f"{which}: 127.0.0.1:{port} is in use" in one_line(err) and f"--{which} HOST:PORT" in err


def test_mock_node_serves_names_a_port_in_use_and_ends_at_sigterm(launch: Callable[..., Process], run: Any) -> None:
    mock = launch("mock-node", "--port", "0", "--name", "here", "--models", "m")
    port = int(mock.said(r"simulated node here on http://127\.0\.0\.1:(\d+)")[1])
    assert [model["id"] for model in get(f"http://127.0.0.1:{port}/v1/models")["data"]] == ["m"]
    code, _, err = run("mock-node", "--port", str(port))
    assert code == 1
    assert f"port {port} is in use" in one_line(err)
    mock.signal(signal.SIGTERM)
    assert (mock.ended(2.0), mock.err) == (0, "")


def patched(ports: dict[int, str]) -> list[str]:
    """The command, looking at other well-known ports: on these nobody else listens."""
    script = f"from fairlead import cli, discover; discover.PORTS = {ports!r}; cli.main()"
    return [sys.executable, "-c", script]


def test_without_nodes_it_searches_and_says_what_to_do(run: Any) -> None:
    ports = {free_port(): "vLLM", free_port(): "Ollama"}
    code, out, err = run("serve", command=patched(ports))
    assert (code, out) == (2, "")
    assert all(f"{port}" in err for port in ports) and err.count("nobody listens") == 2
    assert "--demo" in one_line(err.splitlines()[-1] + "\n")


def test_what_it_finds_it_serves_and_a_router_is_no_node(launch: Callable[..., Process], run: Any) -> None:
    mock = launch("mock-node", "--port", "0")
    port = int(mock.said(r"http://127\.0\.0\.1:(\d+)")[1])
    options = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    router = launch(*options, command=patched({port: "vLLM", free_port(): "Ollama"}))
    public = router.port()
    assert f"127.0.0.1:{port}  up: simulated node, 4 slots, demo" in router.err
    assert [model["id"] for model in get(f"http://127.0.0.1:{public}/v1/models")["data"]] == ["demo"]
    code, _, err = run(*options, command=patched({public: "llama.cpp"}))
    assert code == 2
    assert "a fairlead router, which is no node" in err
    router.signal(signal.SIGTERM)
    assert router.ended(3.0) == 0
    # The curl command in its greeting is a shell's: it asks for the model that there is.
    assert """-d '{"model": "demo",""" in router.err
    assert router.out == ""  # it is the request log's


def test_the_default_port_gives_way_to_a_node_there(launch: Callable[..., Process]) -> None:
    router = launch("serve", "--node", "http://127.0.0.1:8080", "--admin", "127.0.0.1:0", "--for", "100ms")
    code = router.ended()
    # 8088 may be in use here; whichever way it ends, it went there.
    assert "port 8080 is a node's: the router takes 8088" in router.err
    assert code == (1 if "127.0.0.1:8088 is in use" in router.err else 0)


def test_one_signal_lets_running_requests_end_and_a_second_one_does_not(launch: Callable[..., Process]) -> None:
    mock = launch("mock-node", "--port", "0", "--ttft", "20s")
    port = int(mock.said(r"http://127\.0\.0\.1:(\d+)")[1])
    url = f"http://127.0.0.1:{port}"
    router = launch("serve", "--node", url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    body = b'{"model": "demo", "prompt": "x"}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with closing(socket.create_connection(("127.0.0.1", router.port()))) as client:
        client.sendall(head + body)
        until = time.monotonic() + START_S
        while get(f"{url}/mock/log")["running"] == 0:
            assert time.monotonic() < until
            time.sleep(0.02)
        router.signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            router.ended(1.0)
        assert "still running: 1;" in router.err
        router.signal(signal.SIGTERM)
        assert router.ended(3.0) == 128 + signal.SIGTERM
        client.settimeout(5)
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")


# The demonstration ---------------------------------------------------------------------------------


def served_by_user(out: str) -> dict[str, int]:
    summary = out.splitlines()[-1]
    return {user: int(count) for user, count in re.findall(r"(flood|team|solo) (\d+)", summary)}


def test_the_demo_serves_three_users_and_ends_by_itself(run: Any) -> None:
    code, out, err = run("serve", "--demo", "--for", "3s")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "simulated nodes, policy wfq" in out and "curl -i http://127.0.0.1:" in out
    assert max(len(line) for line in out.splitlines() if line.startswith(("user", "flood", "sim"))) <= 80
    assert re.search(r"^user +clients +waiting +running +served +req/min +tok/s +wait p50 +p95 +share$", out, re.M)
    assert re.search(r"^flood +40 +3\d ", out, re.M)
    assert re.search(r"^sim-fast +up +4/4 ", out, re.M)
    served = served_by_user(out)
    assert len(served) == 3 and all(served.values()), served
    assert f"the router counts {sum(served.values())} completed" in out
    for port in map(int, re.findall(r"http://127\.0\.0\.1:(\d+)", out.splitlines()[0])):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_ctrl_c_ends_the_live_table(launch: Callable[..., Process]) -> None:
    parent, child = pty.openpty()
    with os.fdopen(parent, "rb", buffering=0) as screen:
        demo = launch("serve", "--demo", stdout=child, stderr=child)
        os.close(child)
        shown = b""
        while b"sim-slow" not in shown:
            shown += screen.read(65536)
        demo.signal(signal.SIGINT)
        begun = time.monotonic()
        with suppress(OSError):  # Linux says so when the other side of a terminal has been closed
            while piece := screen.read(65536):
                shown += piece
        assert demo.ended(2.0) == 0
        assert time.monotonic() - begun < 2.0
    assert b"\x1b[" in shown and b"Traceback" not in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")  # the cursor is visible again
    assert b"ended: served" in shown
