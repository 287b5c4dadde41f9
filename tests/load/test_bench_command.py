"""``fairlead bench`` and benches/side_by_side as a shell runs them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from load_servers import Peer, scripted, stream

from fairlead import bench_machine as machine

ROOT = Path(__file__).parents[2]
FAIRLEAD = [sys.executable, "-m", "fairlead"]
SIDE_BY_SIDE = ROOT / "benches/side_by_side/run.py"
TWO_CORES = pytest.mark.skipif(len(machine.cores()) < 2, reason="needs two cores")


def run(*command: str, seconds: float = 60.0) -> tuple[int, str, str]:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def bench(*options: str) -> tuple[int, str, str]:
    return run(*FAIRLEAD, "bench", *options)


def test_an_endpoint_is_loaded(serve: Any, tmp_path: Path) -> None:
    node = serve(model="tiny")
    out = tmp_path / "out.json"
    code, said, err = bench(
        *("--url", f"http://127.0.0.1:{node.ports[0]}", "--for", "300ms", "--users", "7", "--connections", "8"),
        *("--pid", str(os.getpid()), "--cpu", str(machine.cores()[-1]), "--json", str(out)),
    )
    assert (code, err) == (0, "")
    found = json.loads(out.read_text())
    assert found["model"] == "tiny" and found["nonces_checked"] and found["faults"] == {} and found["unanswered"] == 0
    assert 0 < found["good"] <= node.counts()["plain"]
    assert found["requests_per_s"] == pytest.approx(found["good"] / found["seconds"], rel=1e-3)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] <= found["latency_ms"]["max"]
    assert found["pids_cpu_us"] > 0  # this process is the node
    for words in (
        "model tiny: 8 connections",
        "7 users",
        "faults            none",
        "each was compared",
        "µs per request",
    ):
        assert words in said


def test_streams_are_loaded_at_a_rate(serve: Any) -> None:
    node = serve()
    url = f"http://127.0.0.1:{node.ports[0]}"
    code, said, err = bench("--url", url, "--for", "500ms", "--stream", "--tokens", "5", "--rate", "50", "--json", "-")
    assert code == 0
    found = json.loads(said)  # and nothing else: for another program
    assert found["chunks"] == 5 * found["good"] > 0
    assert {"latency_ms", "first_ms", "gap_ms", "transit_ms", "lag_ms"} <= set(found)
    for words in ("50 requests/s", "chunks/s", "first chunk ms", "between chunks", "chunk transit ms"):
        assert words in err


def test_a_load_with_faults_says_so_and_fails() -> None:
    def script(peer: Peer) -> None:
        count = 0
        while True:
            nonce = peer.request()
            count += 1
            peer.good(nonce if peer.number == 0 or count % 2 else b"9" * 16)

    with scripted(script) as port:
        code, said, _ = bench("--url", f"http://127.0.0.1:{port}", "--model", "m", "--for", "300ms")
    assert code == 1
    assert "x the answer to another request" in said


def test_an_engine_that_repeats_no_nonce_is_loaded_all_the_same() -> None:
    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(stream(b"{}", b"{}", b"[DONE]"))

    with scripted(script) as port:
        url = f"http://127.0.0.1:{port}"
        code, said, _ = bench("--url", url, "--model", "m", "--stream", "--connections", "2", "--for", "200ms")
    assert code == 0
    assert "answers were not matched to requests" in said and "chunk transit" not in said


def test_notes_tell_what_makes_the_figures_doubtful(serve: Any) -> None:
    node = serve(slots=1, service_ns=50_000_000)
    url = f"http://127.0.0.1:{node.ports[0]}"
    code, said, _ = bench("--url", url, "--rate", "200", "--connections", "1", "--for", "500ms")
    assert code == 0
    assert "note: " in said and "requests were due and had no connection" in said


def test_an_endpoint_that_leaves_after_its_first_answer_is_not_said_to_mix_answers_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def leave() -> None:
            connection, _ = server.accept()
            server.close()
            with connection:
                peer = Peer(connection, 0)
                peer.request()
                peer.answer(b"{}", more="Connection: close\r\n")

        thread = threading.Thread(target=leave)
        thread.start()
        code, _, err = bench("--url", f"http://127.0.0.1:{server.getsockname()[1]}", "--model", "m")
        thread.join()
    assert code == 1
    assert "no connection" in err and "another request" not in err


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--users", "3"], 2, "--users needs --url"),
        (["--pid", "3"], 2, "--pid needs --url"),
        (["--header", "A: b"], 2, "--header needs --url"),
        (["--url", "https://a"], 1, "plain HTTP"),
        (["--url", "http://127.0.0.1:1", "--model", "m"], 1, "no connection"),
        (["--url", "http://127.0.0.1:1"], 1, "--model"),
        (["--url", "http://127.0.0.1:1", "--for", "0s"], 1, "--for"),
        (["--url", "http://127.0.0.1:1", "--for", "soon"], 2, "'soon' is not allowed"),
        (["--url", "http://127.0.0.1:1", "--connections", "0"], 2, "--connections"),
        (["--url", "http://127.0.0.1:1", "--cpu", "4000"], 1, "core 4000"),
        (["--url", "http://127.0.0.1:1", "--header", "nothing", "--model", "m"], 1, "'nothing'"),
    ],
)
def test_what_can_t_be_done_is_told_on_one_line(options: list[str], code: int, told: str) -> None:
    found, out, err = bench(*options)
    assert (found, out) == (code, "")
    assert err.startswith("fairlead: ") and err.count("\n") == 1 and told in err, err


def test_a_process_that_is_not_there_and_a_place_that_can_t_be_written(serve: Any, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{serve().ports[0]}"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code, _, err = bench("--url", url, "--for", "50ms", "--pid", str(gone.pid))
    assert code == 1 and f"process {gone.pid} has ended" in err
    code, _, err = bench("--url", url, "--for", "50ms", "--json", str(tmp_path / "no" / "out.json"))
    assert code == 1 and "choose another place" in err and err.count("\n") == 1


def checked(document: dict[str, Any], routers: set[str], rounds: int) -> None:
    assert set(document["routers"]) == routers
    for name, router in document["routers"].items():
        assert router["failed"] is None, router["failed"]
        assert router["version"][0].isdigit()
        assert set(router["turns"]) == {"one_user", "many_users", "queue", "in_step", "scattered", "low", "high"}, name
        for kind, turns in router["turns"].items():
            assert len(turns) == rounds
            assert not any(turn["faults"] for turn in turns), (name, kind)
            assert all(0 < turn["router_part"] < 1.1 for turn in turns), (name, kind)
            if kind in ("in_step", "scattered"):
                assert all(turn["cpu_us_per_chunk"] > 3 for turn in turns), (name, kind)
            else:
                assert all(turn["good"] > 0 and turn["cpu_us_per_request"] > 5 for turn in turns), (name, kind)
    for turns in document["direct"].values():
        assert not any(turn["faults"] for turn in turns) and all(turn["router_part"] == 0 for turn in turns)


@pytest.mark.measures
@TWO_CORES
def test_side_by_side_measures_fairlead_and_a_plain_proxy(tmp_path: Path) -> None:
    code, said, err = run(
        *(sys.executable, str(SIDE_BY_SIDE), "--routers", "fairlead,aiohttp", "--rounds", "1", "--seconds", "0.3"),
        *("--streams", "20", "--out", str(tmp_path)),
        seconds=240,
    )
    assert code == 0, (said, err)
    document = json.loads((tmp_path / "results.json").read_text())
    checked(document, {"fairlead", "aiohttp"}, 1)
    for router in document["routers"].values():
        (held,) = router["memory"]
        assert held["streams"] == held["flowing"] == 20 and not held["faults"]
        assert held["idle_bytes"] > 1 << 20
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in said and "| fairlead " in text and "| aiohttp " in text


@TWO_CORES
def test_a_peer_that_is_missing_or_does_not_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "nginx"
    broken.write_text("#!/bin/sh\necho nginx version: 9.9.9\nexit 3\n")
    broken.chmod(0o755)
    command = [sys.executable, str(SIDE_BY_SIDE), "--routers", "nginx,litellm", "--seconds", "0.05", "--rounds", "1"]
    command += ["--streams", "1", "--peers-venv", str(tmp_path), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert ended.returncode == 1
    assert "litellm is not installed" in ended.stderr and "pip install 'litellm[proxy]'" in ended.stderr
    assert "nginx does not start: nginx version: 9.9.9" in ended.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--routers", "apache"], "choose of fairlead, nginx"),
        (["--cores", "0,0"], "choose two of"),
        (["--streams", "many"], "lists of numbers"),
        (["--rounds", "0"], "must be positive"),
    ],
)
def test_side_by_side_names_bad_options(options: list[str], told: str) -> None:
    code, out, err = run(sys.executable, str(SIDE_BY_SIDE), *options)
    assert (code, out) == (2, "") and told in err


@pytest.mark.measures
@TWO_CORES
def test_this_router_is_measured_without_a_url() -> None:
    code, said, err = run(*FAIRLEAD, "bench", "--for", "100ms", "--json", "-", seconds=240)
    assert code == 0, (said, err)
    checked(json.loads(said), {"fairlead"}, 3)
    assert "router " in err and "|" not in err
