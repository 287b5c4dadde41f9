"""Readers of workloads: what each format means, and what is said of a bad line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fairlead import traces

FORMATS = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,3,4\n2023-11-16 18:15:48.0,5,6\n",
    "mooncake": '{"timestamp":1000,"input_length":3,"output_length":4}\n'
    '{"timestamp":2500,"input_length":5,"output_length":6}\n',
    "vtc arena": "arrival_s,client,input_tokens,output_tokens\n0.5,a,3,4\n2,b,5,6\n",
    "generic": "time,user,model,input_tokens,output_tokens\n2,b,m,5,6\n0.5,a,m,3,4\n",
    "request log": '{"arrival":7.5,"user":"a","model":"m","prompt_tokens":3,"completion_tokens":4}\n'
    '{"arrival":8,"user":"a","model":"m","prompt_tokens":3,"completion_tokens":null}\n'
    '{"arrival":9,"user":"b","model":"m","prompt_tokens":5,"completion_tokens":6}\n',
}


@pytest.mark.parametrize("reader", FORMATS)
def test_every_format_is_found_by_its_header(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "trace"
    path.write_text(FORMATS[reader])
    trace = traces.read(path)
    assert trace.reader == reader
    assert list(trace.arrival_ns) == [0, 1_500_000_000]
    assert list(trace.input_tokens) == [3, 5] and list(trace.output_tokens) == [4, 6]
    named = reader not in ("azure", "mooncake")
    assert any("Zipf(1.1) with seed 1" in note for note in trace.notes) is not named
    if named:
        assert [trace.users[user] for user in trace.user] == ["a", "b"]


BAD = {
    "arrival,user,input_tokens,output_tokens\n1,a,2,x\n": ("line 2", "output_tokens", "'x'", "whole number"),
    "arrival,user,input_tokens,output_tokens\n1,a,2,3\n-1,a,2,3\n": ("line 3", "arrival", "'-1'", "seconds >= 0"),
    "arrival,user,input_tokens,output_tokens\nnan,a,2,3\n": ("line 2", "arrival", "'nan'"),
    "arrival,user,input_tokens,output_tokens\n1,,2,3\n": ("line 2", "user", "''", "a name"),
    "arrival,user,input_tokens\n1,a,2\n": ("no column output", "output_tokens"),
    "arrival,input_tokens,output_tokens\n1,2\n": ("line 2", "2 columns"),
    '{"arrival":1,"input_tokens":2,"output_tokens":3}\n[1]\n': ("line 2", "JSON object"),
    '{"arrival":1,"input_tokens":2.5,"output_tokens":3}\n': ("line 1", "input_tokens", "2.5"),
    "client,mean_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens\n1,x,1,2,3\n": ("line 2", "mean_rps", "'x'"),
    "arrival,input_tokens,output_tokens\n": ("no requests",),
    "": ("no header",),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_line_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(traces.TraceError) as caught:
        traces.read(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("bad.csv", *BAD[text]):
        assert part in message


def test_a_mix_is_even_and_on_and_off_where_wanted() -> None:
    trace = traces.synthetic(traces.parse_mix("a:0.5/s:256:128:even:on=60:off=60,b:2/s:1:1:even"), 600)
    times = [at for at, user in zip(trace.arrival_ns, trace.user, strict=True) if user == 0]
    assert len(times) == 150 and len(trace) == 150 + 1200
    assert {round((b - a) / 1e9, 6) for a, b in itertools.pairwise(times)} == {2.0, 62.0}


@pytest.mark.parametrize("mix", ["a", "a:0/s:1:1", "a:1/s:1:1:odd", "a:1/s:-1:1", "a:1/s:1:1,a:1/s:1:1"])
def test_a_bad_mix_is_refused(mix: str) -> None:
    with pytest.raises(traces.TraceError, match="--synthetic"):
        traces.parse_mix(mix)
