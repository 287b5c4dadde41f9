"""The simulator against hand-computed waits, its own sums, and what was measured on a real engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fairlead import mixes, simulate_report, traces, workload
from fairlead.cli import run
from fairlead.config_schema import POLICIES
from fairlead.simulate import Result, Settings, Simulation, simulate

ARENA = Path(__file__).resolve().parents[2] / "benches/traces/vtc_arena_27clients.csv"
ENDED = ("completed", "failed", "expired", "refused", "pushed_out")
ENGINE = Settings(slots=19, fixed_service_s=10.85)


def waits_of(trace: workload.Trace, result: Result, user: str) -> dict[str, float]:
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
    trace = mixes.synthetic(mixes.parse_mix("a:1/s:10:50,b:3/s:20:80,c:0.2/s:5:5"), 300, seed=3)
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


def test_servegen_s_clients_are_those_of_the_file() -> None:
    trace = traces.read(ARENA.with_name("servegen_msmall_clients.csv"), duration_s=60, scale=0.05)
    assert len(trace.users) == 43
    assert len(trace) == pytest.approx(0.05 * 60 * 1170, rel=0.2)


def test_overload_as_measured() -> None:
    trace = mixes.synthetic(mixes.parse_mix("light:1.5/s:256:256:even,heavy:3/s:256:256:even"), 360)
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
    trace = mixes.synthetic(mixes.parse_mix(mix), 600)
    p99 = {p: [waits_of(trace, simulate(trace, ENGINE, p), u)["p99"] for u in light] for p in ("fifo", "wfq")}
    print(f"p99 of {light}: measured FCFS / VTC {measured} s, ours {p99}")
    assert min(p99["fifo"]) > 150 and max(p99["wfq"]) < 5


BUSY = "a:3/s:50:100:even,b:3/s:50:100:even"  # each of the two alone is too much for three slots


@pytest.mark.parametrize(("policy", "ratio"), [("fifo", 1), ("round_robin", 1), ("wfq", 3), ("token_wfq", 3)])
def test_weights_are_shares_of_what_is_served_under_load(policy: str, ratio: int) -> None:
    trace = mixes.synthetic(mixes.parse_mix(BUSY), 1000)
    result = simulate(trace, Settings(slots=3, weights={"a": 3}), policy)
    a, b = result.dispatched_in_load
    assert a / b == pytest.approx(ratio, rel=0.02 if ratio == 3 else 0.1)
    found = simulate_report.summary(trace, result)
    assert found["jain"] > 0.999 if ratio == 3 else found["jain"] < 0.9


def test_weights_come_from_the_command_line_and_are_told(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    mix = ["--synthetic", BUSY, "--duration", "200", "--node", "slots=3"]
    assert run(["simulate", *mix, "--weights", "a=3, b=2", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["settings"]["weights"] == {"a": 3, "b": 2}
    waits = {row["user"]: row["wait_s"]["mean"] for row in found["policies"]["wfq"]["users"]}
    assert waits["a"] < 0.9 * waits["b"]


def test_a_user_of_ten_models_has_one_share(tmp_path: Path) -> None:
    """All nodes serve all models, so that there is one pool, as in the router."""
    lines = [f"{at / 20},{'ab'[at % 2]},m{at % 2 and at // 2 % 10},10,20" for at in range(4000)]
    path = tmp_path / "t.csv"
    path.write_text("arrival,user,model,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    trace = traces.read(path)
    assert len(trace.models) == 10
    for policy in POLICIES[1:]:
        result = simulate(trace, Settings(slots=3), policy)
        a, b = result.dispatched_in_load
        assert a / b == pytest.approx(1, rel=0.02)
        assert simulate_report.document(trace, [result])["trace"]["models"] == 10


def test_an_estimate_is_the_router_s_and_no_more_than_max_tokens(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "0,A,7,100,\n0,A,7,100,5\n0,A,7,100,500\n9,A,7,100,\n9,A,7,100,50\n"
    path.write_text("arrival,user,input_tokens,output_tokens,max_tokens\n" + rows)
    simulation = Simulation(traces.read(path), Settings(slots=5, fixed_service_s=1), "token_wfq")
    result = simulation.run()
    assert list(simulation.charge) == [7 + 2 * 16, 7 + 2 * 5, 7 + 2 * 16, 7 + 2 * 100, 7 + 2 * 50]
    assert list(result.service) == [7 + 2 * 100] * 5


def test_who_got_nothing_has_no_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = tmp_path / "out.json", tmp_path / "t.csv"
    trace.write_text("arrival,user,input_tokens,output_tokens\n0,A,1,1\n1,B,1,1\n")
    node = ["--node", "slots=1,fixed-service-s=100", "--timeout-s", "5"]
    assert run(["simulate", "--trace", str(trace), *node, "--json", str(path)]) == 0
    rows = {row["user"]: row for row in json.loads(path.read_text())["policies"]["wfq"]["users"]}
    assert rows["B"]["wait_s"] == {"mean": None, "p50": None, "p99": None} and rows["B"]["expired"] == 1
    assert rows["A"]["wait_s"] == {"mean": 0.0, "p50": 0.0, "p99": 0.0}
    out = capsys.readouterr().out
    assert re.search(r"^  B +1 +0 +0\.0% +- +- +- +0 +1$", out, re.MULTILINE)
    assert re.search(r"^wfq +- +- +0\.00 +0\.00$", out, re.MULTILINE)
    assert "\nrefused: also those pushed out of a full queue. expired: waited for --timeout-s.\n" in out


def test_the_table_fits_a_terminal_where_nothing_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--trace", str(ARENA), "--compare", ",".join(POLICIES)]) == 0
    _, *lines = capsys.readouterr().out.splitlines()  # the first has the name of the file, however long
    assert max(map(len, lines)) <= 80
    assert not any("refused" in line or "expired" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["--trace", str(ARENA), "--duration", "5"], "--duration changes nothing"),
        (["--trace", str(ARENA), "--zipf-users", "5"], "--zipf-users changes nothing"),
        (["--synthetic", BUSY, "--duration", "9", "--zipf-users", "100"], "--zipf-users changes nothing"),
        (["--trace", str(ARENA), "--weights", "c00=2", "--compare", "fifo,round_robin"], "--weights changes nothing"),
        (["--trace", str(ARENA), "--weights", "c00=2"], ""),
    ],
)
def test_an_option_that_means_nothing_is_named(
    arguments: list[str], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *arguments]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(notes) == bool(note) and all(note in line for line in notes)


ONE = ["--synthetic", "a:1/s:1:1", "--duration", "20"]
LONGEST = "arrival,user,input_tokens,output_tokens\n0,A,268435455,268435455\n9,A,268435455,268435455\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--synthetic", "a:1000000/s:1:1", "--duration", "1000000"], "more than 5000000 requests"),
        ([*ONE, "--scale", "1000000"], "more than 5000000 requests"),
        ([*ONE, "--scale", "1e-7"], "no request in 20 s"),
        (["--trace", str(ARENA), "--scale", "1e-300"], "longer than 4e+09 s"),
        ([*ONE, "--duration", "nan"], "a number above 0 and up to 1000000"),
        ([*ONE, "--duration", "-1"], "a number above 0"),
        ([*ONE, "--timeout-s", "inf"], "a number 0..1000000"),
        ([*ONE, "--nodes", "16385"], "a whole number 1..16384"),
        ([*ONE, "--nodes", "1.5"], "a whole number 1..16384"),
        ([*ONE, "--seed", "-1"], "a whole number 0..9223372036854775807"),
        ([*ONE, "--seed", "9" * 5000], "a whole number 0..9223372036854775807"),
        ([*ONE, "--node", "slots=65537"], "a whole number 1..65536"),
        ([*ONE, "--node", "slots=2,slots=3"], "'slots' is there twice"),
        ([*ONE, "--node", "mtbf-s=0.001"], "choose a larger mtbf-s"),
        ([*ONE, "--weights", "a=1048577"], "a whole number 1..1048576"),
        ([*ONE, "--weights", "a=" + "9" * 5000], "a whole number 1..1048576"),
        ([*ONE, "--weights", "a=2,a=3"], "'a' is there twice"),
        ([*ONE, "--weights", "a"], "no such user"),
        ([*ONE, "--prices", "5:1"], "each 0..4"),
        ([*ONE, "--json", "/no/such/directory/out.json"], "a directory that exists"),
        ([*ONE, "--plot", "/no/such/directory/out.png"], "a directory that exists"),
        (["--trace", "LONGEST", "--node", "token-ms=1000000"], "would end after 2.68e+11 s"),
        (["--trace", "LONGEST", "--node", "token-ms=1000000,batch-slope=1000,slots=2"], "would end after"),
        (["--synthetic", "a:1/s:268435456:1"], "is not allowed"),
    ],
)
def test_what_is_absurd_is_refused_in_one_line(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fairlead.simulate.EVENTS_MAX", 10_000)
    trace = tmp_path / "longest.csv"
    trace.write_text(LONGEST)
    assert run(["simulate", *(str(trace) if each == "LONGEST" else each for each in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and told in err, err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nodes", "16384", "--node", "slots=65536"],
        ["--queue-limit", "16777216"],
        ["--weights", "a=1048576"],
        ["--timeout-s", "0.000000001"],
        ["--seed", str(2**63 - 1)],
        ["--node", "mtbf-s=1000000000,mttr-s=1000000000"],
    ],
)
def test_the_largest_that_is_allowed_works(arguments: list[str]) -> None:
    assert run(["simulate", *ONE, *arguments, "--compare", ",".join(POLICIES)]) == 0


def test_the_longest_requests_at_the_highest_prices_are_priced(tmp_path: Path) -> None:
    path, out = tmp_path / "longest.csv", tmp_path / "out.json"
    path.write_text(LONGEST)
    for policy in POLICIES:
        arguments = ["--trace", str(path), "--prices", "4:4", "--compare", policy, "--json", str(out)]
        assert run(["simulate", *arguments]) == 0
        assert json.loads(out.read_text())["policies"][policy]["service"] == 2 * 8 * 268435455


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
    trace = mixes.synthetic(mixes.parse_mix("light:0.1/s:9:9:even,heavy:5/s:9:9:even"), 200)
    one = Settings(slots=1, fixed_service_s=1, queue_limit=20)
    rows = {row["user"]: row for row in simulate_report.summary(trace, simulate(trace, one, "wfq"))["users"]}
    assert rows["light"]["refused"] == rows["light"]["pushed_out"] == 0
    assert rows["heavy"]["refused"] > 500 and rows["heavy"]["pushed_out"] > 0
