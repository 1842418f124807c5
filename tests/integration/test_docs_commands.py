"""The commands of the documentation, run against a private daemon with a simulated GPU.

Pages that need a service manager are in tests/e2e/test_docs.py. ``tests.documented_commands`` explains the comments
that say why a block is not run.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpumand.testing.daemon import PrivateGpumand
from tests.blocks import Block, Step, blocks, blocks_of
from tests.documented_commands import (
    ROOT,
    SIZES,
    TOTAL_MIB,
    Ids,
    Page,
    command_of,
    is_run,
    note_problem,
    pages,
    problem,
)

HERE = [page for page in pages() if not page.needs_machine]
LIMIT_SEC = 60
CONFIG = "[scheduler]\nmin_turn_sec = 0\n"


@pytest.mark.parametrize("block", [pytest.param(one, id=str(one)) for one in blocks(ROOT) if one.has_commands])
def test_block_is_run_or_says_why_not(block: Block) -> None:
    assert note_problem(block) == ""
    assert not is_run(block) or any(block in page.blocks for page in pages())


@pytest.mark.parametrize("page", [pytest.param(one, id=str(one)) for one in HERE])
def test_commands_of_the_page_work_in_the_order_of_the_page(page: Page, tmp_path: Path) -> None:
    with PrivateGpumand(SIZES, total_mib=TOTAL_MIB, config=CONFIG) as gpumand:
        environ, ids = os.environ | gpumand.environ | _programs(tmp_path), Ids()
        for block in page.blocks:
            for step in block.steps():
                done = _run(ids.used_in(command_of(block, step)), environ, tmp_path)
                output = done.stdout.replace(f"user {getpass.getuser()}", "user alice")
                assert not (found := problem(block, step, done.returncode, output)), f"{block.place}: {found}"
                ids.learn(step, output)


def _run(command: str, environ: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", "-euc", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environ,
        cwd=work,
        timeout=LIMIT_SEC,
        check=False,
    )


def _programs(folder: Path) -> dict[str, str]:
    """The environment of a user who has installed gpumand."""
    programs = folder / "bin"
    programs.mkdir()
    gpumanctl = programs / "gpumanctl"
    gpumanctl.write_text(f"#!{sys.executable}\nfrom gpumand.cli.app import gpumanctl\ngpumanctl()\n", encoding="utf-8")
    gpumanctl.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100", "HOME": str(folder)}


# -- the comparison ----------------------------------------------------------------------------------------------------

SHOWN = """
Text

   <!-- until Ctrl-C -->
   ```console
   $ gpumanctl acquire llm \\
       --ttl 1min
   b4409a6e1a2301f32f6a
   # systemctl status
   …
   active … since 10:00:01
   ```

```toml
# /etc/gpumand/conf.d/a.toml
[consumers.a]
```
"""


def test_blocks_in_lists_their_prompts_their_output_and_their_comments_are_read() -> None:
    console, toml = blocks_of("a.md", SHOWN)
    assert (console.line, console.note, toml.file) == (5, "until Ctrl-C", "/etc/gpumand/conf.d/a.toml")
    assert console.steps() == [
        Step("gpumanctl acquire llm \\\n    --ttl 1min", ("b4409a6e1a2301f32f6a",)),
        Step("systemctl status", ("…", "active … since 10:00:01"), is_root=True),
    ]


def block(text: str, note: str = "", language: str = "console") -> Block:
    return Block("docs/x.md", 1, language, text, note)


@pytest.mark.parametrize(
    ("shown", "status", "output"),
    [
        ("$ x\nlease b4409a, ends in 15 min", 0, "lease 0123ab, ends in 14 min\n"),
        ("$ x\n…\nlast  one", 0, "first\nsecond\nlast one\n"),
        ("$ x\ngpumanctl: timed out after 1 s", 1, "gpumanctl: timed out after 1 s"),
        ("$ x", 0, "anything"),
    ],
)
def test_output_that_differs_only_in_times_and_ids_is_accepted(shown: str, status: int, output: str) -> None:
    one = block(shown)
    assert problem(one, one.steps()[0], status, output) == ""


@pytest.mark.parametrize(
    ("shown", "status", "output"),
    [
        ("$ x\n6.0 GiB used", 0, "5.0 GiB used\n"),
        ("$ x\none", 0, "one\ntwo\n"),
        ("$ x\n…\nlast", 0, "last\nmore\n"),
        ("$ x", 1, ""),
        ("$ x\ngpumanctl: timed out after 1 s", 0, "gpumanctl: timed out after 1 s"),
    ],
)
def test_other_output_or_another_outcome_is_a_failure(shown: str, status: int, output: str) -> None:
    one = block(shown)
    assert problem(one, one.steps()[0], status, output)


@pytest.mark.parametrize(("status", "is_fine"), [(124, True), (1, False), (0, False)])
def test_command_that_runs_until_it_is_interrupted_has_failed_when_it_ends_earlier(status: int, is_fine: bool) -> None:
    one = block("gpumanctl top", "until Ctrl-C", "sh")
    assert (problem(one, one.steps()[0], status, "") == "") is is_fine


@pytest.mark.parametrize(
    "note",
    [
        "not run:",
        "not run: ",
        "not run: tests/none.py does it",
        "run by tests/none.py",
        "run by tests/blocks.py",
        "skipped",
    ],
)
def test_comment_without_a_reason_or_with_a_wrong_test_is_refused(note: str) -> None:
    assert note_problem(block("x", note, "sh"))
