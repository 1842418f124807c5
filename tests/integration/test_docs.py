"""What the documentation shows: every block of it that can be checked without a booted machine is.

Commands in ``console`` blocks are run for real by tests/e2e/test_docs.py.
"""

from __future__ import annotations

import ast
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gpumand.cli.app import gpumanctl
from gpumand.config import load
from tests.blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = blocks(ROOT)


def named(*languages: str) -> list[object]:
    return [pytest.param(one, id=str(one)) for one in BLOCKS if one.language in languages]


def test_every_block_says_what_it_is() -> None:
    known = {"toml", "console", "sh", "python", "ini", "js", "{toctree}", "{include}", "{eval-rst}", "text"}
    assert {one.language for one in BLOCKS} <= known
    assert len(BLOCKS) > 40


@pytest.mark.parametrize("block", named("toml"))
def test_configuration_that_is_shown_is_accepted(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text(block.text, encoding="utf-8")
    load(file)


@pytest.mark.parametrize("block", named("sh", "console"))
def test_shell_that_is_shown_is_shell(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(block.commands()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def shown_commands() -> Iterator[tuple[Block, str]]:
    for one in BLOCKS:
        if one.language in ("sh", "console"):
            yield from ((one, line) for line in one.commands() if "gpumanctl" in line)


@pytest.mark.parametrize(("block", "line"), [pytest.param(*one, id=one[1][:60]) for one in shown_commands()])
def test_gpumanctl_that_is_shown_is_understood(block: Block, line: str) -> None:
    lexer = shlex.shlex(line.replace("$(", " ; ").replace(")", " ; "), posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words = list(lexer)
    while "gpumanctl" in words:
        words = words[words.index("gpumanctl") + 1 :]
        end = next((at for at, word in enumerate(words) if set(word) <= set(";|&")), len(words))
        _understood(words[:end])


def _understood(words: list[str]) -> None:
    """Parse it as gpumanctl would, without running anything. Raises click.UsageError."""
    group = gpumanctl.make_context("gpumanctl", list(words))
    with group:
        rest = [*group._protected_args, *group.args] if hasattr(group, "_protected_args") else list(group.args)
        if rest:
            name, command, rest = gpumanctl.resolve_command(group, rest)
            assert command is not None, name
            command.make_context(name, rest, parent=group)


def test_gpumanctl_that_is_not_is_not() -> None:
    with pytest.raises(click.UsageError):
        _understood(["acquire", "llm", "--forever"])
    with pytest.raises(click.UsageError):
        _understood(["aquire", "llm"])


@pytest.mark.parametrize("block", named("python"))
def test_python_that_is_shown_is_python_and_imports_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpumand"):
            exec(compile(ast.Module([node], []), block.place, "exec"), {})
