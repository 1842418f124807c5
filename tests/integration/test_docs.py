"""The code blocks of the documentation are valid, as far as this can be checked without a booted machine.

test_docs_commands.py and tests/e2e/test_docs.py run the commands.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from gpumand.cli.app import gpumanctl
from gpumand.config import load
from gpumand.fleet.config import load as load_fleet
from gpumand.gateway.config import load as load_gateway
from gpumand.notify.config import load as load_hooks
from tests.blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = blocks(ROOT)


def named(*languages: str) -> list[object]:
    return [pytest.param(one, id=str(one)) for one in BLOCKS if one.language in languages]


def test_every_block_names_a_known_language() -> None:
    known = {
        "toml",
        "console",
        "sh",
        "python",
        "ini",
        "js",
        "json",
        "yaml",
        "{toctree}",
        "{image}",
        "{include}",
        "{eval-rst}",
        "text",
    }
    assert {one.language for one in BLOCKS} <= known
    assert len(BLOCKS) > 40


@pytest.mark.parametrize("block", named("toml"))
def test_configuration_is_accepted(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text(block.text, encoding="utf-8")
    if "[hooks" in block.text:
        assert load_hooks(file)
    elif "[fleet]" in block.text:
        assert load_fleet(file)
    else:
        (load_gateway if "[gateway" in block.text else load)(file)


@pytest.mark.parametrize("block", named("json"))
def test_json_is_valid(block: Block) -> None:
    assert json.loads(block.text)


class ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads YAML with the tag of Docker Compose that removes a value of the file below."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


@pytest.mark.parametrize("block", named("yaml"))
def test_yaml_is_valid(block: Block) -> None:
    assert yaml.load(block.text, ComposeLoader)


@pytest.mark.parametrize("block", named("sh", "console"))
def test_shell_syntax_is_valid(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(block.commands()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def shown_commands() -> Iterator[tuple[Block, str]]:
    for one in BLOCKS:
        if one.language in ("sh", "console"):
            commands = [step.command for step in one.steps()] if one.language == "console" else one.commands()
            yield from ((one, command) for command in commands if "gpumanctl" in command)


@pytest.mark.parametrize(("block", "line"), [pytest.param(*one, id=one[1][:60]) for one in shown_commands()])
def test_gpumanctl_command_line_is_valid(block: Block, line: str) -> None:
    lexer = shlex.shlex(line.replace("$(", " ; ").replace(")", " ; "), posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words = list(lexer)
    while "gpumanctl" in words:
        words = words[words.index("gpumanctl") + 1 :]
        end = next((at for at, word in enumerate(words) if set(word) <= set(";|&")), len(words))
        _parse(words[:end])


NOMAD_TASK = re.compile(r'^ *command *= *"(?:[^"]*/)?gpumanctl"\n *args *= *(\[.*?\])$', re.MULTILINE | re.DOTALL)


def scheduled_commands() -> Iterator[tuple[Block, list[str]]]:
    """The arguments of gpumanctl in jobs of Nomad and in containers of k3s and Compose, which no shell reads."""
    for one in BLOCKS:
        if one.language == "text":
            yield from ((one, json.loads(match[1])) for match in NOMAD_TASK.finditer(one.text))
        if one.language == "yaml":
            yield from ((one, words) for words in _container_commands(yaml.load(one.text, ComposeLoader)))


def _container_commands(value: object) -> Iterator[list[str]]:
    if isinstance(value, dict):
        words = [*_words(value.get("command")), *_words(value.get("args"))]
        if words and words[0].rpartition("/")[2] == "gpumanctl":
            yield words[1:]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in children:
        yield from _container_commands(one)


def _words(value: object) -> list[str]:
    return shlex.split(value) if isinstance(value, str) else value if isinstance(value, list) else []


SCHEDULED = list(scheduled_commands())


@pytest.mark.parametrize(("block", "words"), [pytest.param(*one, id=one[0].place) for one in SCHEDULED])
def test_gpumanctl_arguments_of_a_scheduled_job_are_valid(block: Block, words: list[str]) -> None:
    _parse(words)


def test_every_job_of_the_page_of_schedulers_is_checked() -> None:
    checked = [block.language for block, _ in SCHEDULED if block.page == "docs/guide/schedulers.md"]
    assert sorted(checked) == ["text", "yaml"]
    jobs = [one for one in BLOCKS if one.page == "docs/guide/schedulers.md" and "gpumanctl" in one.text]
    assert len(jobs) == len(checked), "a block that runs gpumanctl is not understood here"


def _parse(words: list[str]) -> None:
    """Parse a command line as gpumanctl does, without running it. Raises click.UsageError."""
    group = gpumanctl.make_context("gpumanctl", list(words))
    with group:
        rest = [*group._protected_args, *group.args] if hasattr(group, "_protected_args") else list(group.args)
        if rest:
            name, command, rest = gpumanctl.resolve_command(group, rest)
            assert command is not None, name
            command.make_context(name, rest, parent=group)


INLINE = re.compile(r"`(?:sudo )?gpumanctl ([^`…<]+)`")
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def inline_commands() -> Iterator[tuple[str, str]]:
    """Commands in the text of the pages, with their page."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if not {"generated", "presets"} & set(file.relative_to(ROOT).parts):
            text = FENCED.sub("", file.read_text(encoding="utf-8"))
            yield from ((file.name, " ".join(match[1].split())) for match in INLINE.finditer(text))


@pytest.mark.parametrize("command", sorted({command for _, command in inline_commands()}))
def test_command_in_the_text_is_valid(command: str) -> None:
    # A text may name a command or an option without its arguments.
    with contextlib.suppress(click.MissingParameter, click.BadOptionUsage):
        _parse(shlex.split(command))


def test_invalid_gpumanctl_command_line_is_refused() -> None:
    with pytest.raises(click.UsageError):
        _parse(["acquire", "llm", "--forever"])
    with pytest.raises(click.UsageError):
        _parse(["aquire", "llm"])


@pytest.mark.parametrize("block", named("python"))
def test_python_is_valid_and_its_imports_exist(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpumand"):
            exec(compile(ast.Module([node], []), block.place, "exec"), {})
