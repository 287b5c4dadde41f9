"""The simulator against hand-computed waits, its own sums, and what was measured on a real engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairlead import simulate_report, traces
from fairlead.cli import run
from fairlead.config_schema import POLICIES
from fairlead.simulate import Result, Settings, simulate

ARENA = Path(__file__).resolve().parents[2] / "benches/traces/vtc_arena_27clients.csv"
ENDED = ("completed", "failed", "expired", "refused", "pushed_out")
ENGINE = Settings(slots=19, fixed_service_s=10.85)


def waits_of(trace: traces.Trace, result: Result, user: str) -> dict[str, float]:
    return next(row["wait_s"] for row in simulate_report.summary(trace, result)["users"] if row["user"] == user)


def test_waits_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival,user,input_tokens,output_tokens\n0,A,1,1\n1,A,1,1\n2,A,1,1\n3,B,1,1\n")
    trace = traces.read(path)
    one = Settings(slots=1, fixed_service_s=10)
    starts = {policy: [at // 10**9 for at in simulate(trace, one, policy).start_ns] for policy in ("fifo", "wfq")}
    assert starts == {"fifo": [0, 10, 20, 30], "wfq": [0, 20, 30, 10]}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_every_request_ends_once_and_service_is_what_was_delivered(policy: str, slope: float) -> None:
    trace = traces.synthetic(traces.parse_mix("a:1/s:10:50,b:3/s:20:80,c:0.2/s:5:5"), 300, seed=3)
    settings = Settings(
        nodes=2, slots=3, batch_slope=slope, ttft_ms=3000, mtbf_s=40, mttr_s=5, queue_limit=40, timeout_s=30, seed=3
    )
    result = simulate(trace, settings, policy)
    found = simulate_report.summary(trace, result)
    assert sum(found["outcomes"].values()) == len(trace)
    assert all(found["outcomes"][name] for name in ("completed", "failed", "expired")) and found["requeued"]
    completed = [i for i in range(len(trace)) if result.outcome[i] == 1]
    assert all(result.service[i] == trace.input_tokens[i] + 2 * trace.output_tokens[i] for i in completed)
    assert sum(row["service"] for row in found["users"]) == sum(
        result.service[i] for i in range(len(trace)) if result.outcome[i] in (1, 2)
    )
    core = result.counters
    assert [core[name] for name in (*ENDED, "requeued")] == [
        *(found["outcomes"][name] for name in ENDED),
        found["requeued"],
    ]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        path = tmp_path / name
        mix = ["--synthetic", "a:1/s:9:99,b:4/s:9:99", "--duration", "100", "--node", "slots=4,mtbf-s=30"]
        assert run(["simulate", *mix, "--compare", "fifo,token_wfq", "--seed", seed, "--json", str(path)]) == 0
        written.append(path.read_bytes())
    assert written[0] == written[1] != written[2]
    assert json.loads(written[0])["policies"].keys() == {"fifo", "token_wfq"}


def test_arena() -> None:
    trace = traces.read(ARENA)
    found = {policy: simulate_report.summary(trace, simulate(trace, Settings(), policy)) for policy in POLICIES}
    light = {policy: found[policy]["light_wait_s"]["mean"] for policy in POLICIES}
    print(f"24 light clients' mean wait: measured FCFS 51.5, VTC 3.36 s; ours {light}")
    assert light["fifo"] > 45 and light["wfq"] < 6 and light["token_wfq"] < 6
    assert all(found[policy]["largest_gap"]["part_of_bound"] <= 1 for policy in POLICIES[1:])
    assert all(sum(row["service"] for row in found[p]["users"]) == found["fifo"]["service"] for p in POLICIES)


def test_overload_as_measured() -> None:
    trace = traces.synthetic(traces.parse_mix("light:1.5/s:256:256:even,heavy:3/s:256:256:even"), 360)
    result = simulate(trace, ENGINE, "wfq")
    light, heavy = waits_of(trace, result, "light")["mean"], waits_of(trace, result, "heavy")["mean"]
    print(f"overload, wfq: measured 124.5 and 353.4 s, ours {light:.1f} and {heavy:.1f} s")
    assert light == pytest.approx(126.1, rel=0.05) and heavy == pytest.approx(355.8, rel=0.05)


@pytest.mark.parametrize(
    ("mix", "light", "measured"),
    [
        (
            "c0:0.25/s:256:256:even,c1:0.5/s:256:256:even,c2:1.5/s:256:256:even",
            ("c0", "c1"),
            "196, 199 / 10.2, 10.5",
        ),
        ("light:0.5/s:256:256:even:on=60:off=60,heavy:2/s:256:256:even", ("light",), "172.5 / 8.31"),
    ],
    ids=["proportional", "on_off_less"],
)
def test_light_users_beside_a_flood(mix: str, light: tuple[str, ...], measured: str) -> None:
    trace = traces.synthetic(traces.parse_mix(mix), 600)
    p99 = {p: [waits_of(trace, simulate(trace, ENGINE, p), u)["p99"] for u in light] for p in ("fifo", "wfq")}
    print(f"p99 of {light}: measured FCFS / VTC {measured} s, ours {p99}")
    assert min(p99["fifo"]) > 150 and max(p99["wfq"]) < 5


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--trace", "none.csv"],
        ["--synthetic", "a:1/s:1:1", "--compare", "lifo"],
        ["--synthetic", "a:1/s:1:1", "--weights", "b=1"],
        ["--synthetic", "a:1/s:1:1", "--node", "slot=1"],
        ["--synthetic", "a:1/s:1:1", "--node", "slots=1.5"],
        ["--synthetic", "a:1/s:1:1", "--node", "mttr-s=0"],
        ["--synthetic", "a:1/s:1:1", "--prices", "1,2"],
        ["--synthetic", "a:1/s:1:1", "--plot", "out.jpg"],
    ],
)
def test_usage_is_exit_code_2_and_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture(tmp_path: Path, suffix: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib", reason="an extra: pip install 'fairlead[plot]'")
    path = tmp_path / f"out.{suffix}"
    mix = ["--synthetic", "a:1/s:9:99,b:4/s:9:99", "--duration", "100", "--node", "slots=4"]
    assert run(["simulate", *mix, "--compare", "fifo,wfq", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(begins)


def test_a_flooder_is_pushed_out_of_a_full_queue_and_nobody_else() -> None:
    trace = traces.synthetic(traces.parse_mix("light:0.1/s:9:9:even,heavy:5/s:9:9:even"), 200)
    one = Settings(slots=1, fixed_service_s=1, queue_limit=20)
    rows = {row["user"]: row for row in simulate_report.summary(trace, simulate(trace, one, "wfq"))["users"]}
    assert rows["light"]["refused"] == rows["light"]["pushed_out"] == 0
    assert rows["heavy"]["refused"] > 500 and rows["heavy"]["pushed_out"] > 0
