"""Readers of workloads: what each format means, and what is said of a bad line."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fairlead import mixes, traces, workload

FORMATS = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,3,4\n2023-11-16 18:15:48.0,5,6\n",
    "mooncake": '{"timestamp":1000,"input_length":3,"output_length":4}\n'
    '{"timestamp":2500,"input_length":5,"output_length":6}\n',
    "vtc arena": "arrival_s,client,input_tokens,output_tokens\n0.5,a,3,4\n2,b,5,6\n",
    "generic": "time,user,model,input_tokens,output_tokens\n2,b,m,5,6\n0.5,a,m,3,4\n",
    "request log": '{"time":"-","arrival":7.5,"user":"a","model":"m","outcome":"completed",'
    '"max_tokens":null,"input_tokens":3,"output_tokens":4,"tokens_by":"usage"}\n'
    '{"time":"-","arrival":8.5,"user":null,"model":null,"outcome":"rejected",'
    '"max_tokens":null,"input_tokens":null,"output_tokens":null,"tokens_by":null}\n'
    '{"time":"-","arrival":8.6,"user":"a","model":"m","outcome":"completed",'
    '"max_tokens":9,"input_tokens":3,"output_tokens":null,"tokens_by":"estimate"}\n'
    '{"time":"-","arrival":9,"user":"b","model":"m","outcome":"cancelled",'
    '"max_tokens":8,"input_tokens":5,"output_tokens":6,"tokens_by":"events"}\n',
}


@pytest.mark.parametrize("reader", FORMATS)
def test_every_format_is_found_by_its_header(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "trace"
    path.write_text(FORMATS[reader])
    trace = traces.read(path)
    assert trace.reader == reader
    assert list(trace.arrival_ns) == [0, 1_500_000_000]
    assert list(trace.input_tokens) == [3, 5] and list(trace.output_tokens) == [4, 6]
    if reader == "request log":
        told = "requests whose tokens nobody counted were left out: completed 1, rejected 1"
        assert (trace.notes, list(trace.max_tokens)) == ([told], [0, 8])
    named = reader not in ("azure", "mooncake")
    assert any("Zipf(1.1) with seed 1" in note for note in trace.notes) is not named
    if named:
        assert [trace.users[user] for user in trace.user] == ["a", "b"]


LOGGED = (
    '{"arrival":%d,"user":"a","outcome":"completed","max_tokens":%d,"input_tokens":3,"output_tokens":%d,'
    '"tokens_by":"usage"}\n'
)


def test_a_log_is_read_past_what_a_full_disk_did_to_it_and_past_absurd_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [LOGGED % (1, 2**31 - 1, 4), LOGGED % (2, 5, 2**31 - 1), LOGGED % (3, 5, 6)]
    path.write_text(lines[0] + lines[1][:30] + "\n" + lines[1] + lines[2])
    trace = traces.read(path)
    assert list(trace.max_tokens) == [workload.TOKENS_MAX, 5, 5]
    assert list(trace.output_tokens) == [4, workload.TOKENS_MAX, 6]
    assert trace.notes == ["requests whose tokens nobody counted were left out: torn line 1"]


SERVEGEN = """client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens
7,4,1,100,50
big,12,3,,
x,1,0.5,400,
"""


def test_servegen_s_clients_are_drawn_by_their_rates_spread_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text(SERVEGEN)
    trace = traces.read(path, duration_s=1000, scale=0.5, seed=3)
    assert (trace.reader, trace.users) == ("servegen clients", ["client 7", "client big", "client x"])
    assert "seed 3" in trace.notes[0] and "2 clients without lengths" in trace.notes[0]
    index = {user: [i for i in range(len(trace)) if trace.user[i] == user] for user in range(3)}
    assert [len(index[user]) for user in range(3)] == pytest.approx([2000, 6000, 500], rel=0.15)

    def mean(column: Sequence[int], user: int) -> float:
        return statistics.fmean(column[i] for i in index[user])

    # What is blank is the mean of those that have both lengths.
    assert [mean(trace.input_tokens, user) for user in range(3)] == pytest.approx([100, 100, 400], rel=0.15)
    assert [mean(trace.output_tokens, user) for user in range(3)] == pytest.approx([50, 50, 50], rel=0.15)

    def spread(user: int) -> float:
        at = [trace.arrival_ns[i] for i in index[user]]
        gaps = [b - a for a, b in itertools.pairwise(at)]
        return statistics.stdev(gaps) / statistics.fmean(gaps)

    assert [spread(user) for user in range(3)] == pytest.approx([1, 3, 0.5], rel=0.15)
    again = traces.read(path, duration_s=1000, scale=0.5, seed=3)
    assert again.arrival_ns == trace.arrival_ns and again.output_tokens == trace.output_tokens
    assert traces.read(path, duration_s=1000, scale=0.5, seed=4).arrival_ns != trace.arrival_ns


def test_times_without_a_zone_are_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-05 00:30:00,3,4\n2023-11-05 02:30:00,5,6\n"
        "2023-11-05T03:30:00+00:00,1,1\n2023-11-05T04:30:00Z,1,1\n"
    )
    try:
        for zone in ("UTC", "America/New_York"):  # where an hour came twice that night
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert [at // 10**9 for at in traces.read(path).arrival_ns] == [0, 7200, 10800, 14400]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_file_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival,user,input_tokens,output_tokens\n" + "0,a,1,1\n" * 4)
    monkeypatch.setattr(traces, "REQUESTS_MAX", 4)
    assert len(traces.read(path)) == 4
    monkeypatch.setattr(traces, "REQUESTS_MAX", 3)
    with pytest.raises(workload.TraceError, match=r"t\.csv: more than \d+ requests: give a part of the file"):
        traces.read(path)


def test_bursts_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clients whose gaps are nearly all 0 there are more requests than their rate says."""
    path = tmp_path / "clients.csv"
    path.write_text(SERVEGEN.replace("12,3,", "12,1000000,"))
    monkeypatch.setattr(mixes, "REQUESTS_MAX", 50_000)
    with pytest.raises(workload.TraceError, match=r"clients\.csv: more than \d+ requests"):
        traces.read(path, duration_s=1000)


BAD = {
    "arrival,user,input_tokens,output_tokens\n1,a,2,x\n": ("line 2", "output_tokens", "'x'", "whole number"),
    "arrival,user,input_tokens,output_tokens\n1,a,2,3\n-1,a,2,3\n": ("line 3", "arrival", "'-1'", "seconds >= 0"),
    "arrival,user,input_tokens,output_tokens\nnan,a,2,3\n": ("line 2", "arrival", "'nan'"),
    "arrival,user,input_tokens,output_tokens\n1,,2,3\n": ("line 2", "user", "''", "a name"),
    "arrival,user,input_tokens\n1,a,2\n": ("no column output", "output_tokens"),
    "arrival,input_tokens,output_tokens\n1,2\n": ("line 2", "2 columns"),
    '{"arrival":1,"input_tokens":2,"output_tokens":3}\n[1]\n': ("line 2", "JSON object"),
    LOGGED % (1, 2, 3) + "[1]\n": ("line 2", "JSON object"),
    LOGGED[:20] + "\n": ("line 1", "JSON object"),
    LOGGED % (1, 2, -3): ("line 1", "output_tokens", "-3"),
    '{"arrival":1,"input_tokens":2.5,"output_tokens":3}\n': ("line 1", "input_tokens", "2.5"),
    "client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens\n1,x,1,2,3\n": ("line 2", "mean_rps", "'x'"),
    "client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens\n,1,1,2,3\n": ("line 2", "client", "blank"),
    "client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens\n1,1,1,,3\n": ("all blank",),
    "client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens\n1,1,0,2,3\n": ("rate_weighted_cv", "'0'"),
    "client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens\n1,1,1,2,3\n1,1,1,2,3\n": (
        "'client 1'",
        "2 times",
    ),
    "arrival,user,user,input_tokens,output_tokens\n1,a,b,2,3\n": ("line 1", "twice"),
    "arrival,user,input_tokens,output_tokens\n1,a,2,268435456\n": ("line 2", "output_tokens", "0..268435455"),
    "arrival,user,input_tokens,output_tokens\n1e300,a,2,3\n": ("line 2", "arrival", "'1e300'"),
    "arrival,input_tokens,output_tokens\n": ("no requests",),
    '{"arrival":1,"input_tokens":2,"output_tokens":null}\n': ("line 1", "output_tokens", "None"),
    '{"arrival":1,"user":"a","input_tokens":null,"output_tokens":null,"tokens_by":null,"outcome":"expired"}\n' * 2: (
        "no request with its tokens",
        "nobody counted",
        "expired 2",
    ),
    "": ("no header",),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_line_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(workload.TraceError) as caught:
        traces.read(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("bad.csv", *BAD[text]):
        assert part in message


def test_a_mix_is_even_and_on_and_off_where_wanted() -> None:
    trace = mixes.synthetic(mixes.parse_mix("a:0.5/s:256:128:even:on=60:off=60,b:2/s:1:1:even"), 600)
    times = [at for at, user in zip(trace.arrival_ns, trace.user, strict=True) if user == 0]
    assert len(times) == 150 and len(trace) == 150 + 1200
    assert {round((b - a) / 1e9, 6) for a, b in itertools.pairwise(times)} == {2.0, 62.0}


@pytest.mark.parametrize("mix", ["a", "a:0/s:1:1", "a:1/s:1:1:odd", "a:1/s:-1:1", "a:1/s:1:1,a:1/s:1:1"])
def test_a_bad_mix_is_refused(mix: str) -> None:
    with pytest.raises(workload.TraceError, match="--synthetic"):
        mixes.parse_mix(mix)
