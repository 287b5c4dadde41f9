"""The README claims only what works. ``python tests/house/test_readme.py`` writes its table of configuration keys."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from fairlead import cli
from fairlead.accounts import OUTCOMES
from fairlead.config import config_keys, load
from fairlead.core import scheduler as core
from fairlead.errors import CODES
from fairlead.inspection import INFERENCE_PATHS
from fairlead.records import MEMBERS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
STUB = ROOT / "src/fairlead/core/scheduler.pyi"
TABLE = re.compile(r"(<!-- config keys: begin[^\n]*-->\n)(.*?)(<!-- config keys: end -->)", re.DOTALL)


UNITS = (" (units ms, s, m, h)", " (bytes, KiB, MiB, GiB)")  # told once, above the table


def config_table() -> str:
    lines = ["| key | default | meaning: what is allowed |", "|---|---|---|"]
    for name, default, meaning in config_keys():
        for units in UNITS:
            meaning = meaning.removesuffix(units)
        meaning = meaning.replace("|", "\\|")
        lines.append(f"| `{name}` | `{default}` | {meaning} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    return README.read_text(encoding="utf-8")


def section(title: str) -> str:
    return readme().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_quick_start_is_two_commands_of_one_line_each() -> None:
    commands = blocks("bash", section("Quick start"))
    assert commands == blocks("bash", readme())
    assert [command.count("\n") for command in commands] == [1, 1]
    assert "fairlead serve --demo" in commands[0]
    assert "pytest" in commands[1]
    # Each works alone in a fresh clone.
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install ") for command in commands)


def test_the_table_of_keys_is_the_code_s() -> None:
    match = TABLE.search(readme())
    assert match is not None
    assert match[2] == config_table()


def test_the_example_loads_and_names_every_section(tmp_path: Path) -> None:
    (text,) = blocks("yaml", readme())
    path = tmp_path / "fairlead.yaml"
    path.write_text(text)
    config = load(path, env={"GPU_B_KEY": "a-secret"})
    assert (config.nodes[1].name, config.nodes[1].api_key) == ("gpu-b", "a-secret")
    assert config.users["alice"].weight == 3
    sections = {name.partition(".")[0].removesuffix("[]") for name, _, _ in config_keys()}
    assert sections == set(re.findall(r"^(\w+):", text, re.MULTILINE))


def test_every_error_code_stands_at_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+?) \|", section("HTTP contract"), re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert told == {code: status for code, (status, _) in CODES.items()}


def test_the_line_of_the_request_log_has_its_members_and_every_outcome_is_explained() -> None:
    text = section("Request log")
    (line,) = blocks("json", text)
    assert tuple(json.loads(line)) == MEMBERS
    told = [word for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)]
    assert set(told) == {*OUTCOMES, "rejected"}


def test_every_inference_path_is_named() -> None:
    named = set(re.findall(r"`(/[a-z0-9_/]+)`", section("HTTP contract")))
    assert named >= INFERENCE_PATHS


def commands() -> list[list[str]]:
    """Command lines of ``fairlead`` in blocks and in the text, without comments."""
    text = readme()
    lines = re.findall(r"(?:^|&& |\.venv/bin/)(fairlead .+)$", text, re.MULTILINE)
    lines += re.findall(r"`(fairlead [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_and_option_exists() -> None:
    found = commands()
    assert {words[1] for words in found} == set(cli.fairlead.commands)
    for words in found:
        command = cli.fairlead.commands[words[1]]
        context = click.Context(command, info_name=f"fairlead {words[1]}", max_content_width=80)
        assert f"fairlead {words[1]}" in command.get_help(context)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("path", [README, STUB], ids=["README", "stub"])
def test_the_scheduler_script_does_what_its_comments_say(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    script = text[text.index("from fairlead.core import scheduler as core") :].split('"""')[0].split("```")[0]
    names: dict[str, Any] = {"DISPATCHED": core.DISPATCHED}
    compared = 0
    for line in (each.strip() for each in script.splitlines()):
        code, _, comment = line.partition("#")
        if code.startswith("s.drain"):
            assert eval(code, names) == eval(comment, names), line
            compared += 1
        else:
            exec(code, names)
    assert compared == 2


def test_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", readme())
    assert links
    assert all((ROOT / link).exists() for link in links if "://" not in link)
    scripts = re.findall(r"python ((?:benches|tests)/\S+\.py)", readme())
    assert scripts
    assert all((ROOT / script).exists() for script in scripts)


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda match: match[1] + config_table() + match[3], readme()), encoding="utf-8")
