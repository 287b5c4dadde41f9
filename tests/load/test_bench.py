"""What the command and the comparison are made of: targets, requests, percentiles, the machine, the report."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_servers import Peer, scripted

from fairlead import bench_machine as machine
from fairlead import bench_report
from fairlead.bench import BenchError, Latencies, Load, Target, Work
from fairlead.load.histogram import counted

# Durations -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**43 - 1), max_size=50))
def test_a_duration_is_counted_within_one_percent(values: list[int]) -> None:
    pairs = counted(values)
    assert sum(count for _, count in pairs) == len(values)
    assert [value for value, _ in pairs] == sorted({value for value, _ in pairs})
    expanded = [value for value, count in pairs for _ in range(count)]
    for value, bucket in zip(sorted(values), expanded, strict=True):
        assert value <= bucket <= value * 1.01


def test_what_is_out_of_range_is_counted_at_the_ends() -> None:
    assert counted([-5, 0]) == [(0, 2)]
    assert counted([2**43 - 1, 2**43, 2**62]) == [(2**43 - 1, 3)]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.sampled_from([50, 90, 99, 99.9, 100]))
def test_percentiles_are_nearest_rank(values: list[int], percent: float) -> None:
    pairs = [(value * 1_000_000, values.count(value)) for value in sorted(set(values))]
    ordered = sorted(values)
    expected = next(v for rank, v in enumerate(ordered, 1) if rank >= percent / 100 * len(ordered))
    assert Latencies(pairs).percentile(percent) == expected
    found = Latencies(pairs).summary()
    assert found["max"] == ordered[-1]
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-3)


def test_no_durations_are_zeros() -> None:
    assert set(Latencies([]).summary().values()) == {0.0}


# Targets and requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", ("127.0.0.1", 8080, "")),
        ("127.0.0.1:8080/", ("127.0.0.1", 8080, "")),
        ("http://localhost/base/v1/", ("localhost", 80, "/base")),
        ("http://[::1]:9", ("::1", 9, "")),
    ],
)
def test_urls(url: str, expected: tuple[str, int, str]) -> None:
    target = Target.of(url, ["Authorization: Bearer k"])
    assert (target.host, target.port, target.base) == expected
    head = Work().request(target, "m").split(b"\r\n\r\n")[0].decode()
    assert f"Host: {target.authority}\r\n" in head and "\r\nAuthorization: Bearer k\r\n" in head
    assert head.startswith(f"POST {expected[2]}/v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "url", ["https://a:1", "http://a:0", "http://a:99999", "http://a:1?x", "http://u@a:1", "http://"]
)
def test_bad_urls_are_told(url: str) -> None:
    with pytest.raises(BenchError, match="http://HOST:PORT"):
        Target.of(url)


@pytest.mark.parametrize("line", ["Authorization", ": x", "A:", "A: b\r\nC: d", "A: é"])
def test_bad_headers_are_told(line: str) -> None:
    with pytest.raises(BenchError, match="Name: value"):
        Target.of("http://a:1", [line])


@pytest.mark.parametrize("size", [0, 200, 1024, 5000])
def test_a_request_has_the_size_that_was_asked_for_if_it_can(size: int) -> None:
    head, _, body = (
        Work(body=size, stream=True, tokens=7, pace_us=9).request(Target("a", 1), "m").partition(b"\r\n\r\n")
    )
    document = json.loads(body)
    assert len(body) == max(size, len(body)) and (size < 200 or len(body) == size)
    assert f"Content-Length: {len(body)}" in head.decode()
    assert document["stream"] is True and document["max_tokens"] == 7
    assert document["messages"][0]["content"].startswith("bench:" + "0" * 16 + ":7:9:0: ")


def test_whether_nonces_come_back_is_found_out(serve: Any) -> None:
    node = serve()
    target = Target("127.0.0.1", node.ports[0])
    with Load(target, Work(connections=1), "bench") as load:
        assert load.echo
        assert load.run(0.05).good > 0

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.answer(b"{}")

    with scripted(script) as port, Load(Target("127.0.0.1", port), Work(connections=1), "m") as load:
        assert not load.echo
        window = load.run(0.05)
        assert window.good > 0 and not window.faults


def test_a_window_may_go_on_until_enough_is_good(serve: Any) -> None:
    target = Target("127.0.0.1", serve(slots=1, service_ns=40_000_000).ports[0])
    with Load(target, Work(connections=1), "bench", echo=True) as load:
        assert load.run(0.05, 5).good >= 5
        window = load.run(0.05, 100)
        assert window.good < 100 and window.seconds < 5


def test_an_endpoint_that_fails_at_once_is_told() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"{}", 404)

    with scripted(script) as port, pytest.raises(BenchError, match=r"1 x status is not 200 \(1 x 404\)"):
        Load(Target("127.0.0.1", port), Work(), "m")
    with pytest.raises(BenchError, match="no connection"):
        Load(Target("127.0.0.1", machine.free_port()), Work(), "m")
    with pytest.raises(BenchError, match=r"no\.such\.host\.invalid"):
        Load(Target("no.such.host.invalid", 80), Work(), "m")


def test_models_are_asked_for(serve: Any) -> None:
    assert [model["id"] for model in Target("127.0.0.1", serve(model="tiny").ports[0]).models()] == ["tiny"]
    with (
        scripted(lambda peer: (peer.request(), peer.answer(b"[]"))) as port,
        pytest.raises(BenchError, match="--model"),
    ):
        Target("127.0.0.1", port).models()


# The machine -------------------------------------------------------------------------------------------

BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
PARENT = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])\n"
    "print('done', flush=True)\n"
    "sys.stdin.read()\n"
)


def test_cpu_and_memory_of_a_process_and_its_children() -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        end = time.monotonic() + 20
        while len(pids := machine.tree(process.pid)) < 2:
            assert time.monotonic() < end
        assert pids[0] == process.pid
        before = machine.cpu_ns([pids[1]])
        time.sleep(0.05)
        assert machine.cpu_ns([pids[1]]) >= before
        assert machine.memory_bytes([process.pid]) > 1 << 20
        assert process.stdout.readline() == b"done\n"
        assert machine.tree(process.pid) == [process.pid]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)
    assert machine.tree(process.pid) == []
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        machine.cpu_ns([process.pid])


def test_cpu_is_what_the_process_used() -> None:
    code = BUSY + "print(time.process_time_ns(), flush=True); import sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        told = int(process.stdout.readline())
        measured = machine.cpu_ns([process.pid])
        assert told <= measured <= told + 50_000_000
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)


def test_a_core_counts_its_time() -> None:
    core = machine.cores()[0]
    then = machine.CoreTime.now(core)
    time.sleep(0.2)
    gone = machine.CoreTime.now(core).since(then)
    assert 0 <= gone.busy_ns <= 1e9 and gone.stolen_ns >= 0


def test_what_was_started_ends_with_its_children_and_runs_on_its_core(tmp_path: Path) -> None:
    core = machine.cores()[-1]
    code = (
        "import os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, *os.sched_getaffinity(0), flush=True)\n"
        "child.wait()\n"
    )
    log = tmp_path / "log"
    before = os.sched_getaffinity(0)
    with machine.started([sys.executable, "-c", code], core, log) as process:
        end = time.monotonic() + 20
        while not log.read_text().endswith("\n"):
            assert time.monotonic() < end
            time.sleep(0.01)
        child, *where = map(int, log.read_text().split())
        assert where == [core] and os.sched_getaffinity(0) == before
        assert machine.tree(process.pid) == [process.pid, child]
        assert process.poll() is None
    assert process.returncode is not None
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists():  # until init has buried it
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_can_t_be_had_is_told(tmp_path: Path) -> None:
    missing = machine.started(["no-such-program"], machine.cores()[0], tmp_path / "log")
    with pytest.raises(BenchError, match="no-such-program"), missing:
        raise AssertionError
    with pytest.raises(BenchError, match="core 4000"):
        machine.pin(4000)
    assert machine.program("no-such-program", tmp_path) is None
    log = tmp_path / "log"
    log.write_text("one\n\ntwo\nthree\nfour\n")
    assert machine.last_words(log) == "two / three / four"


# The report ----------------------------------------------------------------------------------------------


def turn(cpu: float, **more: Any) -> dict[str, Any]:
    latency = {"p50": 1.0, "p99": 3.0}
    return {
        "requests_per_s": 1e6 / cpu,
        "cpu_us_per_request": cpu,
        "cpu_us_per_chunk": cpu / 2,
        "router_part": 1.0,
        "load_part": 0.5,
        "others_on_router_core": 0.0,
        "others_on_load_core": 0.0,
        "stolen": 0.0,
        "faults": "",
        "missed": 0,
        "latency_ms": latency,
        "direct_latency_ms": {"p50": 0.4, "p99": 2.0},
    } | more


def document() -> dict[str, Any]:
    kinds = ("one_user", "many_users", "queue", "in_step", "scattered", "low", "high")
    base = {kind: [turn(20.0), turn(24.0), turn(22.0)] for kind in kinds}
    ours = {kind: [turn(10.0), turn(12.0), turn(44.0)] for kind in kinds}
    held = [{"streams": 1000, "flowing": 1000, "idle_bytes": 40 << 20, "bytes_per_stream": 2048.0, "faults": ""}]
    direct = {kind: [turn(1.0, latency_ms={"p50": 0.25, "p99": 1.5})] for kind in kinds[:-1]}
    rest: dict[str, Any] = {"unheld": [], "failed": None, "memory": held}
    return {
        "machine": machine.describe(),
        "settings": {"rounds": 3, "seconds": 2.0},
        "direct": direct,
        "routers": {
            "fairlead": {"version": "1.0", "turns": ours, **rest},
            "nginx": {"version": "1.22", "turns": base, **rest},
            "lost": {"version": "2", "turns": {}, "unheld": [], "memory": [], "failed": "lost does not start: why"},
        },
    }


def test_the_tables_hold_medians_ratios_and_differences() -> None:
    text = bench_report.markdown(document())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows[:4]}) == 1 and len({len(row) for row in rows[4:]}) == 1
    cost = {row[0]: row[1:] for row in rows[:4]}
    # Medians with extremes; ratios of each round are 0.5, 0.5 and 2.
    assert cost["fairlead 1.0"][0] == "12.0 (10.0-44.0)" and cost["fairlead 1.0"][3] == "0.50"
    assert cost["fairlead 1.0"][4] == "83,333" and cost["fairlead 1.0"][6] == "6.0 (5.0-22.0)"
    assert cost["nginx 1.22"][3] == "1.00"
    late = {row[0]: row[1:] for row in rows[4:]}
    assert late["nginx"] == ["0.75", "1.50", "0.60", "1.00", "40", "2.0"]
    assert "- lost does not start: why" in text


def test_one_router_alone_is_a_list_that_fits_a_terminal() -> None:
    found = document()
    found["routers"] = {"fairlead": found["routers"]["fairlead"]}
    text = bench_report.markdown(found)
    listed = [line for line in text.splitlines() if line.startswith("    ")]
    assert max(map(len, listed)) <= 80 and "|" not in text
    assert "    CPU µs/request, 1 user                  12.0 (10.0-44.0)" in listed
    assert "    added p99 ms, 70 % load                 1.00" in listed


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("one_user", {"faults": "3 x no answer in time"}, "fairlead, 1 user: faults: 3 x no answer in time"),
        ("high", {"missed": 1234}, "fairlead, 70 % load: 1,234 requests were due and not sent: it did not keep up"),
        (
            "high",
            {"missed": 1, "others_on_load_core": 0.46},
            "1 requests were due and not sent: the load's core was full",
        ),
        (
            "queue",
            {"router_part": 0.5, "load_part": 0.99},
            "fairlead, 64 waiting, 100 users: node and generator were at",
        ),
        (
            "low",
            {"others_on_router_core": 0.25},
            "other processes took 0% (median), 25% (at most) of the router's core",
        ),
        ("low", {"others_on_load_core": 0.25}, "of the load's core"),
        ("low", {"stolen": 0.25}, "the hypervisor took"),
        ("low", {"lag_ms": {"p99": 2.5}}, "the generator sent late itself, p99 2.5 ms"),
    ],
)
def test_what_makes_a_figure_doubtful_is_told(kind: str, more: dict[str, Any], told: str) -> None:
    sound = copy.deepcopy(document())
    del sound["routers"]["lost"]
    assert "No doubts." in bench_report.markdown(sound)
    sound["routers"]["fairlead"]["turns"][kind][0] |= more
    assert told in bench_report.markdown(sound)


def test_streams_that_were_not_held_are_told() -> None:
    found = document()
    found["routers"]["fairlead"]["memory"] = [
        {"streams": 1000, "flowing": 10, "idle_bytes": 1 << 20, "bytes_per_stream": None, "faults": "1 x no connection"}
    ]
    found["routers"]["nginx"]["unheld"] = ["1,000 streams: why"]
    text = bench_report.markdown(found)
    assert "fairlead: only 10 of 1,000 streams flowed: 1 x no connection" in text
    assert "nginx, 1,000 streams: why" in text


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.png", "a.svg"):
        found = document()
        found["routers"]["nginx"]["turns"]["one_user"] = [turn(20.0, cpu_us_per_request=None)]
        found["routers"]["nginx"]["turns"]["queue"] = [turn(2000.0)]
        bench_report.plot(tmp_path / name, found)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "fairlead 1.0" in (tmp_path / "a.svg").read_text() or (tmp_path / "a.svg").stat().st_size > 5000


def test_a_comparison_that_is_ended_ends_what_it_started(tmp_path: Path) -> None:
    """SIGTERM to the harness: the node goes, too."""
    code = (
        "import pathlib, sys, time\n"
        "from fairlead import bench_machine, bench_turns\n"
        f"directory = pathlib.Path({str(tmp_path)!r})\n"
        "settings = bench_turns.Settings(load_core=bench_machine.cores()[0], directory=directory)\n"
        "with bench_turns.Bench(settings, print) as bench:\n"
        "    print(bench.node_pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        node = int(process.stdout.readline())
    assert machine.tree(node) == [node]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert machine.tree(node) == []
