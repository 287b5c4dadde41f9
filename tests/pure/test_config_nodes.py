"""Nodes in the configuration: what is refused, with its line, and what is never told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pure.config_text import fault, read


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{name: a}", "nodes[0]: has no url: write {url: http://HOST:PORT}"),
        ("{url: }", "nodes[0].url: has no value"),
        ("ftp://a", "nodes[0]: 'ftp://a' is not allowed: choose http(s)://HOST[:PORT][/BASE]"),
        ("a:8000", "nodes[0]: 'a:8000' is not allowed"),
        ("http://", "nodes[0]: 'http://' is not allowed"),
        ("http:///x", "nodes[0]: 'http:///x' is not allowed"),
        ("http://a:0", "nodes[0]: 'http://a:0' is not allowed"),
        ("'http://a:'", "nodes[0]: 'http://a:' is not allowed"),
        ("http://a:65536", "nodes[0]: 'http://a:65536' is not allowed"),
        ("http://a?x", "nodes[0]: 'http://a?x' is not allowed"),
        ("'http://a#x'", "nodes[0]: 'http://a#x' is not allowed"),
        ("http://a/../b", "nodes[0]: 'http://a/../b' is not allowed"),
        ("http://a//b", "nodes[0]: 'http://a//b' is not allowed"),
        ("http://a/%2e", "nodes[0]: 'http://a/%2e' is not allowed"),
        ("'http://a b'", "nodes[0]: 'http://a b' is not allowed"),
        ("http://ä", "nodes[0]: 'http://ä' is not allowed"),
        ("'http://[::1'", "nodes[0]: 'http://[::1' is not allowed"),
        ('"http://a\\tb"', "nodes[0]: 'http://a\\tb' is not allowed"),
        ("http://a/v1/", "nodes[0]: 'http://a/v1/' is not allowed (leave /v1 out"),
        ("http://" + "a" * 130, "nodes[0]: no name can be made of the url 'http://aaaa"),
        ("{url: http://a, name: 'a/b'}", "nodes[0].name: 'a/b' is not allowed"),
        ("{url: http://a, slots: 0}", "nodes[0].slots: '0' is not allowed: choose an integer 1..65536, or auto"),
        ("{url: http://a, slots: 65537}", "nodes[0].slots: '65537' is not allowed"),
        ("{url: http://a, engine: tgi}", "nodes[0].engine: 'tgi' is not allowed: choose vllm | sglang"),
        ("{url: http://a, paths: /x}", "nodes[0].paths: must be a list"),
        ("{url: http://a, paths: [x]}", "nodes[0].paths[0]: 'x' is not allowed: choose a path"),
        ("{url: http://a, paths: [/x, /../y]}", "nodes[0].paths[1]: '/../y' is not allowed"),
        ("{url: http://a, paths: [/health/x]}", "nodes[0].paths[0]: '/health/x' is not allowed"),
        ("{url: http://a, api_key: a, api_key_file: b}", "nodes[0].api_key_file: the node has an api_key too"),
        ("{url: http://a, api_key_file: none.txt}", "nodes[0].api_key_file: "),
        ("[http://a]", "nodes[0]: must be a mapping"),
    ],
    ids=range(31),
)
def test_nodes_that_are_not_allowed(file: Path, node: str, message: str) -> None:
    assert fault(file, f"log: {{}}\nnodes:\n- {node}\n").startswith("f.yaml:3: " + message)


def test_secrets_are_not_told(file: Path) -> None:
    (file.parent / "key.txt").write_text("hush hush")
    for text in (
        "nodes: [{url: http://a, api_key: 'hush hush'}]",
        "nodes: [{url: http://a, api_key: '${KEY}'}]",
        "nodes: [{url: http://a, api_key_file: key.txt}]",
        "nodes: ['http://user:hush@a/']",
        "nodes: ['http://user:hush/hush@a/']",
    ):
        message = fault(file, text, KEY="hush\nhush")
        assert "hush" not in message
        assert message.startswith("f.yaml:1: nodes[0]")


def test_a_key_file_that_cannot_be_used(file: Path) -> None:
    text = "nodes: [{url: http://a, api_key_file: key.txt}]"
    assert "key.txt' can't be read: No such file or directory" in fault(file, text)
    for content in (b"", b"\n", b"\xff", b"a b", b"x" * 70_000):
        (file.parent / "key.txt").write_bytes(content)
        assert "key.txt' holds no key: it must hold 1..4096 printable ASCII" in fault(file, text)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("{name: a, url: http://a}", "{name: a, url: http://b}", "name 'a'"),
        ("{name: a, url: http://a}", "{name: b, url: 'http://A:80/'}", "url 'http://a'"),
        ("http://a", "http://a", "url 'http://a'"),
        ("{name: 'b:80', url: http://a}", "http://b", "name 'b:80'"),
    ],
)
def test_two_nodes_of_one_name_or_url(file: Path, first: str, second: str, what: str) -> None:
    assert fault(file, f"nodes:\n- {first}\n- {second}\n") == (
        f"f.yaml:3: nodes[1]: a second node of {what}, the first is at f.yaml:2: change one"
    )
    if second.startswith("http"):
        assert fault(file, f"nodes:\n- {first}\n", nodes=[second]) == (
            f"--node: nodes[1]: a second node of {what}, the first is at f.yaml:2: change one"
        )


@pytest.mark.parametrize("text", ["", "# nothing\n", "nodes:\n", "nodes: []\n", "listen: 127.0.0.1:1\n", "---\n"])
def test_a_file_without_nodes_says_what_to_do(file: Path, text: str) -> None:
    message = fault(file, text)
    assert message == 'f.yaml:1: nodes: no node is named: write nodes: ["http://HOST:PORT"] or give --node URL'
    assert read(file, text, nodes=["http://a:1"]).nodes[0].name == "a:1"
