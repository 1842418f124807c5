"""Completion with the shipped scripts in real shells: the Tab key in bash and zsh, ``complete -C`` in fish."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.ctl import COMMAND, LIMIT_SEC, Ctl, Screen
from tests.integration.cli.manager import LEASE, ScriptedManager, dictionary
from tests.unit.cli import samples

ROOT = Path(__file__).resolve().parents[3]
OTHER_LEASE = "aaaabbbbccccdddd"
PROMPT = "prompt> "


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the completion scripts and a gpumanctl in bin/."""
    folder = tmp_path_factory.mktemp("completions")
    subprocess.run([sys.executable, ROOT / "scripts" / "completions.py", folder], check=True)
    (folder / "_gpumanctl").write_text((folder / "gpumanctl.zsh").read_text())
    program = folder / "bin" / "gpumanctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def leases(manager: ScriptedManager) -> None:
    """The manager's leases: one of the caller and one of another user."""
    own = samples.lease(id=LEASE, owner_uid=os.getuid())
    other = samples.lease(id=OTHER_LEASE, owner_uid=os.getuid() + 1)
    manager.answers["GetStatus"] = dictionary(samples.status(leases=[other, own]))


def environment(scripts: Path) -> dict[str, str]:
    return {"PATH": f"{scripts}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


TABS = [
    ("gpumanctl sho\t", "gpumanctl show"),
    ("gpumanctl show mv\t", "gpumanctl show mvoice"),
    (f"gpumanctl release {LEASE[:2]}\t", f"gpumanctl release {LEASE}"),
    ("gpumanctl release \t", f"gpumanctl release {LEASE}"),
    ("gpumanctl history --kind eviction-f\t", "gpumanctl history --kind eviction-failed"),
    ("gpumanctl preset show comf\t", "gpumanctl preset show comfyui"),
]


@pytest.mark.parametrize(("typed", "line"), TABS)
async def test_completion_in_bash(ctl: Ctl, scripts: Path, typed: str, line: str) -> None:
    bash = ("bash", "--norc", "--noprofile", "-i")
    shell = await Screen.start(ctl.with_environment(environment(scripts)), argv=bash, columns=200, PS1=PROMPT)
    await shell.wait_for(PROMPT)
    shell.type(f"bind 'set bell-style none'; source {scripts}/gpumanctl.bash && echo so\\urced\n".encode())
    await shell.wait_for("sourced\r\n")
    await shows_line(shell, typed, line)


@pytest.mark.parametrize(("typed", "line"), TABS)
async def test_completion_in_zsh(ctl: Ctl, scripts: Path, tmp_path: Path, typed: str, line: str) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    shell = await Screen.start(
        ctl.with_environment(environment(scripts)), argv=("zsh", "-f", "-i"), columns=200, PS1=PROMPT
    )
    await shell.wait_for(PROMPT)
    shell.type(
        f"fpath=({scripts} $fpath); autoload -Uz compinit && compinit -u -d {tmp_path}/dump && echo lo\\aded\n".encode()
    )
    await shell.wait_for("loaded\r\n")
    await shows_line(shell, typed, line)


async def shows_line(shell: Screen, typed: str, line: str) -> None:
    """Type and wait until the shell shows the line, which it may write in pieces."""
    before = len(shell.seen)
    shell.type(typed.encode())
    deadline = asyncio.get_running_loop().time() + LIMIT_SEC
    while line not in written(shell.seen[before:]):
        assert asyncio.get_running_loop().time() < deadline, written(shell.seen[before:])
        await asyncio.sleep(0.02)
    shell.process.kill()
    await shell.process.wait()


def written(octets: bytes) -> str:
    """The text that these bytes put on an empty screen."""
    import pyte

    screen = pyte.Screen(200, 24)
    pyte.ByteStream(screen).feed(octets)
    return "\n".join(screen.display)


FISH = [
    ("gpumanctl sho", ["show"]),
    ("gpumanctl show mv", ["mvoice"]),
    ("gpumanctl release ", [LEASE]),
    ("gpumanctl acquire --lifetime t", ["ttl"]),
]


@pytest.mark.parametrize(("line", "offered"), FISH)
async def test_completion_in_fish(ctl: Ctl, scripts: Path, tmp_path: Path, line: str, offered: list[str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    process = await asyncio.create_subprocess_exec(
        "fish",
        "--no-config",
        "--command",
        f"source {scripts}/gpumanctl.fish; complete -C '{line}'",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ctl.env({"HOME": str(tmp_path), **environment(scripts)}),
    )
    async with asyncio.timeout(LIMIT_SEC):
        out, err = await process.communicate()
    assert err == b""
    assert [word.partition("\t")[0] for word in out.decode().splitlines()] == offered
