"""The configuration: the one line that is said about what does not load."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.config import load
from fairlead.errors import ConfigError
from pure.config_text import NODES, fault

# Keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quue: {}", "f.yaml:2: quue: unknown key; nearest known key: queue"),
        ("queue:\n  max_wating: 1", "f.yaml:3: queue.max_wating: unknown key; nearest known key: max_waiting"),
        ("max_bytes: 1", "f.yaml:2: max_bytes: unknown key; nearest known key: queue.max_bytes"),
        ("zzz: 1", "f.yaml:2: zzz: unknown key; known keys: listen, admin, trusted_proxies, identity, nodes, users, "),
        ("queue: {tier: {}}", "f.yaml:2: queue.tier: unknown key; nearest known key: tiers"),
        ("retries: {max: 2}", "f.yaml:2: retries: unknown key; "),
        ("timeouts: {header: 1s}", "f.yaml:2: timeouts.header: unknown key; "),
        ("log: {request: stdout}", "f.yaml:2: log.request: unknown key; nearest known key: requests"),
        ("users: {a: {tier: high}}", "f.yaml:2: users.a.tier: unknown key; "),
        ('"a\\nb": 1', "f.yaml:2: 'a\\nb': unknown key; "),
        ("queue: {timeout: 1s}\nqueue: {}", "f.yaml:3: queue: is given twice, first at f.yaml:2: remove one"),
        ("log:\n  level: info\n  level: info", "f.yaml:4: log.level: is given twice, first at f.yaml:3: remove one"),
        ("<<: {a: 1}", "f.yaml:2: <<: unknown key; "),
        ("? [a]\n: 1", "f.yaml:1: has a key that is a list or a mapping"),
    ],
)
def test_keys_that_are_not_known(file: Path, text: str, message: str) -> None:
    assert fault(file, NODES + text).startswith(message)


# Values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queue: {max_waiting: 1000001}", "queue.max_waiting: '1000001' is not allowed: choose an integer 0..1000000"),
        ("queue: {max_waiting: -1}", "queue.max_waiting: '-1' is not allowed"),
        ("queue: {max_waiting: 1_000}", "queue.max_waiting: '1_000' is not allowed"),
        ("queue: {max_waiting: 010}", "queue.max_waiting: '010' is not allowed"),
        ("queue: {max_waiting: 1.0}", "queue.max_waiting: '1.0' is not allowed"),
        ("queue: {max_waiting: \u0661}", "queue.max_waiting: '\u0661' is not allowed"),
        ("queue: {max_waiting: [1]}", "queue.max_waiting: must be a single value"),
        ("queue: {max_waiting: }", "queue.max_waiting: has no value"),
        ("queue: {max_waiting: !!binary MQ==}", "queue.max_waiting: has the YAML tag"),
        ("queue: {max_waiting: !x 1}", "queue.max_waiting: has the YAML tag"),
        ("queue: {timeout: 60}", "queue.timeout: '60' is not allowed: choose a duration 1ms..24h (units ms, s, m, h)"),
        ("queue: {timeout: 0s}", "queue.timeout: '0s' is not allowed"),
        ("queue: {timeout: 1.5s}", "queue.timeout: '1.5s' is not allowed"),
        ("queue: {timeout: 25h}", "queue.timeout: '25h' is not allowed"),
        ("queue: {timeout: 99999999999999999999s}", "queue.timeout: '99999999999999999999s' is not allowed"),
        ("queue: {max_bytes: 1MB}", "queue.max_bytes: '1MB' is not allowed: choose a size 64KiB..1024GiB"),
        ("queue: {policy: lifo}", "queue.policy: 'lifo' is not allowed: choose fifo | round_robin | wfq"),
        ("queue: [a]", "queue: must be a mapping"),
        ("routing: {gpu_weight: 1.1}", "routing.gpu_weight: '1.1' is not allowed: choose a number 0..1"),
        ("routing: {gpu_weight: nan}", "routing.gpu_weight: 'nan' is not allowed"),
        ("users: {a: {weight: 0}}", "users.a.weight: '0' is not allowed: choose an integer 1..10000"),
        ("users: {'': {}}", "users.: a user's name must be 1..128 printable characters"),
        (
            "log: {requests: stdot}",
            "log.requests: 'stdot' is not allowed: choose stdout | stderr | none, or a file: /PATH",
        ),
        ("log: {requests: log.jsonl}", "log.requests: 'log.jsonl' is not allowed"),
        ('log: {requests: "/a\\nb"}', "log.requests: '/a\\nb' is not allowed"),
        ("listen: 8080", "listen: '8080' is not allowed: choose HOST:PORT"),
        ("listen: :8080", "listen: ':8080' is not allowed"),
        ("listen: ::1:8080", "listen: '::1:8080' is not allowed"),
        ("listen: a:65536", "listen: 'a:65536' is not allowed"),
        ("listen: 127.0.0.1:8081", "listen: listen and admin have one address"),
        ("admin: off", "admin: 'off' is not allowed"),
        ("admin: 0.0.0.0:8081", "admin: '0.0.0.0:8081' is not allowed (any other address would need a token"),
        (
            "trusted_proxies: [10.0.0.1/8]",
            "trusted_proxies[0]: '10.0.0.1/8' is not allowed (10.0.0.1/8 has host bits set)",
        ),
        ("trusted_proxies: ::1", "trusted_proxies: must be a list"),
        ("identity: [api_key]", "identity[0]: unknown source 'api_key': choose client_address, {header: NAME}"),
        ("identity: [" + "x" * 5000 + "]", "identity[0]: unknown source 'xxxxx"),
        ("identity: [{body: " + "x" * 5000 + "}]", "identity[0].body: 'xxxxx"),
        ("identity: [{header: a, body: user}]", "identity[0]: must be one source"),
        ("identity: [{body: name}]", "identity[0].body: 'name' is not read from bodies: choose user"),
        ("identity: [{header: 'a b'}]", "identity[0].header: 'a b' is not allowed: choose the name of a header"),
        ("identity: [{header: a}, {header: a}]", "identity[1]: is given twice"),
        ("log: {level: " + "x" * 5000 + "}", "log.level: 'xxxxx"),
    ],
)
def test_values_that_are_not_allowed(file: Path, text: str, message: str) -> None:
    said = fault(file, NODES + text)
    assert said.startswith("f.yaml:2: " + message)
    assert len(said) < 300


# Files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nodes:\n  - \xff\n", "f.yaml:2: byte 11 is not UTF-8: save the file as UTF-8"),
        (b"a: 1\nb: \x07\n", "f.yaml:2: has the control character 0x7: remove it"),
        (b"a: 1\n b: 2\n", "f.yaml:2: not valid YAML: mapping values are not allowed here"),
        (b"a: [1,\n", "f.yaml:2: not valid YAML: "),
        (b"a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML: but found another document"),
        (b"a: *x\n", "f.yaml:1: not valid YAML: found undefined alias 'x'"),
        (b"- a\n", "f.yaml:1: must be a mapping"),
        (b"nodes: &a [*a]\n", "f.yaml:1: nodes[0]: must be a mapping"),
        (b"[" * 50_000, "f.yaml: is nested too deeply to be a configuration"),
    ],
    ids=range(9),
)
def test_files_that_are_no_configuration(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(file, env={})
    assert str(caught.value).replace(str(file), "f.yaml").startswith(message)


def test_files_that_cannot_be_read(file: Path) -> None:
    for path, reason in ((file, "No such file or directory"), (file.parent, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path, env={})
        assert str(caught.value) == f"{path}: can't be read: {reason}"


@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.text("{}[]:,-&*!|>'\"#%@ \n\tab$", max_size=40))
def test_any_text_is_a_configuration_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    for wrapped in (text, f"nodes:\n- {text}", f"log: {{level: {text}}}"):
        file.write_bytes(wrapped.encode())
        try:
            message = repr(load(file, nodes=["http://a:1"], env={}))
        except ConfigError as error:
            message = str(error)
        assert message.isprintable()
