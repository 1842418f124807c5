"""Reading notify.toml: examples are valid, and every mistake is reported with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config import ConfigProblems
from gpumand.notify.config import MAX_HOOKS, load
from gpumand.notify.service import main

EXAMPLE = Path(__file__).parents[3] / "examples/notify.toml"


def read(folder: Path, text: str) -> list[str]:
    file = folder / "notify.toml"
    file.write_text(text, encoding="utf-8")
    try:
        load(file)
    except ConfigProblems as error:
        return [f"{one.key}: {one.message}" for one in error.problems]
    return []


def test_the_example_is_valid_with_its_comments_removed(tmp_path: Path) -> None:
    (hook,) = load(EXAMPLE)
    assert (hook.name, hook.command[0], hook.wait_sec) == ("desktop", "/bin/sh", 30)
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    start = lines.index("# [hooks.chat]")
    assert read(tmp_path, "\n".join(line.removeprefix("# ") for line in lines[start:])) == []


def test_a_hook_without_events_hears_of_failures(tmp_path: Path) -> None:
    file = tmp_path / "notify.toml"
    file.write_text('[hooks.a]\ncommand = "/bin/true"\n[hooks.b]\nwebhook = "http://127.0.0.1/"\n', encoding="utf-8")
    with pytest.raises(ConfigProblems):
        load(file)
    file.write_text('[hooks.a]\ncommand = ["/bin/true"]\n', encoding="utf-8")
    assert load(file)[0].events == ("eviction-failed", "load-failed", "long-wait", "degraded")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[hooks.a]\n", "needs either a command or a webhook"),
        ('[hooks.a]\ncommand = ["/bin/true"]\nwebhook = "http://h/"\n', "needs either a command or a webhook"),
        ('[hooks.a]\ncommand = ["notify-send"]\n', "must begin with an absolute path"),
        ('[hooks.a]\nwebhook = "ftp://h/"\n', "is not a URL"),
        ('[hooks.a]\nwebhook = "https://user:password@h/"\n', "has a user name or password: use headers"),
        ('[hooks.a]\ncommand = ["/bin/true"]\nevents = ["evictions"]\n', "eviction"),
        ('[hooks.a]\ncommand = ["/bin/true"]\nmax_per_hour = 0\n', "max_per_hour"),
        ('[hook.a]\ncommand = ["/bin/true"]\n', "unknown table"),
        ("hooks = 1\n", "must be a table"),
        ("".join(f'[hooks.h{n}]\ncommand = ["/bin/true"]\n' for n in range(MAX_HOOKS + 1)), "more than the maximum"),
    ],
)
def test_mistakes_are_reported_with_their_place(tmp_path: Path, text: str, problem: str) -> None:
    [message] = read(tmp_path, text)
    assert problem in message


def test_the_process_ends_with_78_for_an_invalid_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "--config", str(EXAMPLE)]) == 0
    (tmp_path / "notify.toml").write_text("[hooks.a]\n", encoding="utf-8")
    assert main(["--config", str(tmp_path / "notify.toml")]) == 78
    assert "notify.toml" in capsys.readouterr().err
