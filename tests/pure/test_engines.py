"""What is read of engines' answers. tests/data has real ones (vLLM 0.32, llama.cpp of xllamacpp 2026.10)."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest

from fairlead.engines import ENGINES, Load, Reply, load, model_list, recognise, slots_told

DATA = Path(__file__).parent.parent / "data"
NONE = Reply(0, b"")
MISSING = Reply(404, b'{"error":"no"}')


def data(name: str) -> Reply:
    return Reply(200, (DATA / name).read_bytes())


def models(owner: str) -> Reply:
    return Reply(200, orjson.dumps({"object": "list", "data": [{"id": "m", "owned_by": owner}]}))


def test_vllm_is_recognised_by_its_own_answers() -> None:
    assert recognise(data("vllm_0.32_models.json"), data("vllm_0.32_metrics.txt"), MISSING, MISSING) == "vllm"


def test_llamacpp_is_recognised_by_its_own_answers() -> None:
    metrics, props = data("llamacpp_metrics.txt"), data("llamacpp_props.json")
    assert recognise(data("llamacpp_models.json"), metrics, props, MISSING) == "llamacpp"


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((models("vllm"), MISSING, MISSING, MISSING), "vllm"),
        ((models("x"), Reply(200, b"# HELP a\nvllm:num_requests_running 1\n"), MISSING, MISSING), "vllm"),
        ((models("sglang"), MISSING, MISSING, MISSING), "sglang"),
        ((models("x"), Reply(200, b"# HELP a\nsglang:num_running_reqs 1\n"), MISSING, MISSING), "sglang"),
        ((models("x"), Reply(200, b"# HELP a\nsglang_num_running_reqs 1\n"), MISSING, MISSING), "sglang"),
        ((models("x"), MISSING, Reply(200, b'{"total_slots":4}'), MISSING), "llamacpp"),
        ((models("library"), MISSING, MISSING, Reply(200, b'{"version":"0.9.1"}')), "ollama"),
        ((models("fairlead-mock-node"), Reply(200, b"\nvllm:num_requests_running 1\n"), MISSING, MISSING), "mock"),
        ((models("somebody"), MISSING, MISSING, MISSING), "openai"),
        ((models("somebody"), Reply(200, b"python_info 1\n"), NONE, NONE), "openai"),
        ((NONE, NONE, NONE, NONE), "openai"),
        ((Reply(200, b"<html>"), Reply(200, b"\xff\xfe"), Reply(200, b"[1]"), Reply(200, b"7")), "openai"),
    ],
)
def test_an_engine_is_recognised_by_what_only_it_has(answers: tuple[Reply, ...], kind: str) -> None:
    assert recognise(*answers) == kind


def test_vllms_load_is_read() -> None:
    assert load(ENGINES["vllm"], data("vllm_0.32_metrics.txt")) == Load(0, 0, 0.0)


def test_llamacpps_load_is_read_and_has_no_gpu() -> None:
    assert load(ENGINES["llamacpp"], data("llamacpp_metrics.txt")) == Load(0, 0, None)


def page(*lines: str) -> Reply:
    return Reply(200, ("\n".join(lines) + "\n").encode())


def test_counts_are_summed_over_engines_and_ratios_take_the_worst() -> None:
    reply = page(
        'vllm:num_requests_running{engine="0"} 3.0',
        'vllm:num_requests_running{engine="1"} 4.0',
        'vllm:num_requests_waiting{engine="0"} 1.0',
        'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 50.0',
        'vllm:kv_cache_usage_perc{engine="0"} 0.25',
        'vllm:kv_cache_usage_perc{engine="1"} 0.75',
    )
    assert load(ENGINES["vllm"], reply) == Load(7, 1, 0.75)


def test_older_and_newer_names_are_read() -> None:
    assert load(ENGINES["vllm"], page("vllm:gpu_cache_usage_perc 0.5")) == Load(0, 0, 0.5)
    new = page("sglang_num_running_reqs 2", "sglang_num_queue_reqs 3", "sglang_token_usage 0.1")
    old = page("sglang:num_running_reqs 2", "sglang:num_queue_reqs 3", "sglang:token_usage 0.1")
    assert load(ENGINES["sglang"], new) == load(ENGINES["sglang"], old) == Load(2, 3, 0.1)


def test_a_metric_under_two_spellings_counts_once() -> None:
    both = page("sglang:num_running_reqs 2", "sglang_num_running_reqs 2", "sglang:num_queue_reqs 1")
    assert load(ENGINES["sglang"], both) == Load(2, 1, None)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running 3",
        "vllm:num_requests_running\t3",
        "vllm:num_requests_running 3 1700000000000",
        'vllm:num_requests_running{a="x} 9",b="{"} 3.0',
        "vllm:num_requests_running{} 3\r",
    ],
)
def test_every_form_of_a_sample_is_read(line: str) -> None:
    assert load(ENGINES["vllm"], page(line)) == Load(3, 0, None)
    assert load(ENGINES["vllm"], page("# HELP vllm:num_requests_running 8", line, "other 1")) == Load(3, 0, None)
    assert load(ENGINES["vllm"], Reply(200, line.encode())) == Load(3, 0, None)


@pytest.mark.parametrize(
    "line",
    [
        "# TYPE vllm:num_requests_running gauge",
        "not_vllm:num_requests_running 3",
        "vllm:num_requests_running_total 3",
        'other{name="vllm:num_requests_running 3"} 1',
        "vllm:num_requests_running",
        "vllm:num_requests_running{",
        'vllm:num_requests_running{a="3',
    ],
)
def test_what_only_looks_like_a_sample_is_none(line: str) -> None:
    assert load(ENGINES["vllm"], page(line)) is None
    assert load(ENGINES["vllm"], Reply(200, line.encode())) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1.01", "90", "abc", ""])
def test_a_ratio_that_can_not_be_one_is_as_if_unsaid(value: str) -> None:
    reply = page("vllm:num_requests_running 1", f"vllm:kv_cache_usage_perc {value}")
    assert load(ENGINES["vllm"], reply) == Load(1, 0, None)


@pytest.mark.parametrize(("value", "count"), [("-5", 0), ("NaN", 0), ("+Inf", 0), ("1e300", 1 << 20), ("2.9", 2)])
def test_a_count_is_a_number_that_can_be_one(value: str, count: int) -> None:
    reply = page(f"vllm:num_requests_running {value}", "vllm:kv_cache_usage_perc 0")
    assert load(ENGINES["vllm"], reply) == Load(count, 0, 0.0)


@pytest.mark.parametrize("reply", [NONE, MISSING, Reply(200, b""), Reply(200, b"\x00\xff{{{"), page("other 1")])
def test_an_engine_that_tells_nothing_has_no_load(reply: Reply) -> None:
    assert load(ENGINES["vllm"], reply) is None


def test_a_large_page_is_read_in_a_fraction_of_a_poll() -> None:
    """Behaviour, not speed: the bound is a hundred times what it takes."""
    noise = [f'vllm:request_bucket{{le="{i}",model_name="m"}} {i}' for i in range(4000)]
    reply = page(*noise, "vllm:num_requests_running 5", "vllm:kv_cache_usage_perc 0.5")
    begun = time.process_time()
    assert load(ENGINES["vllm"], reply) == Load(5, 0, 0.5)
    assert time.process_time() - begun < 1.0


def test_slots_are_those_the_engine_tells() -> None:
    assert slots_told(ENGINES["llamacpp"], data("llamacpp_props.json")) == 4
    assert slots_told(ENGINES["sglang"], Reply(200, b'{"max_running_requests":32}')) == 32
    assert slots_told(ENGINES["vllm"], MISSING) is None


def test_sglangs_slots_are_the_sum_over_its_ranks_and_what_memory_allows() -> None:
    state = {"effective_max_running_requests_per_dp": 52}
    told = {"max_running_requests": 256, "internal_states": [state, state]}
    assert slots_told(ENGINES["sglang"], Reply(200, orjson.dumps(told))) == 104
    for silent in ([], [{}], ["x"], None, [{"effective_max_running_requests_per_dp": None}]):
        assert slots_told(ENGINES["sglang"], Reply(200, orjson.dumps(told | {"internal_states": silent}))) == 256


@pytest.mark.parametrize("value", ["true", "0", "-1", "70000", '"4"', "null", "[]", "1.5"])
def test_a_number_of_slots_that_can_not_be_one_is_as_if_unsaid(value: str) -> None:
    assert slots_told(ENGINES["llamacpp"], Reply(200, b'{"total_slots":' + value.encode() + b"}")) is None


def test_models_keep_the_nodes_own_fields_and_have_what_clients_need() -> None:
    body = b'{"object":"list","data":[{"id":"a","max_model_len":9,"owned_by":"x"},{"id":"b","created":7}]}'
    assert model_list(Reply(200, body)) == {
        "a": {"id": "a", "object": "model", "created": 0, "max_model_len": 9, "owned_by": "x"},
        "b": {"id": "b", "object": "model", "created": 7},
    }


def test_an_ollama_without_a_model_lists_none() -> None:
    assert model_list(Reply(200, b'{"object":"list","data":null}')) == {}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":{}}', b'{"object":"list"}', b"{", b'{"data":"x"}'])
def test_what_is_no_list_of_models_is_none(body: bytes) -> None:
    assert model_list(Reply(200, body)) is None
    assert model_list(Reply(500, b'{"data":[]}')) is None


def test_entries_that_can_not_be_models_are_left_out() -> None:
    entries = [
        {"id": "ok"},
        {"id": ""},
        {"id": 5},
        {"id": "a\nb"},
        {"id": "x" * 257},
        "no",
        {"name": "n"},
        {"id": "ok"},
    ]
    listed = model_list(Reply(200, orjson.dumps({"data": entries})))
    assert listed is not None
    assert list(listed) == ["ok"]
