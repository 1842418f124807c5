"""gpumanctl gateway key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpumand.cli.commands.gateway_keys import key
from gpumand.cli.errors import Failure
from gpumand.config.gateway_keys import hash_of


def run(*arguments: str) -> Any:
    return CliRunner().invoke(key, [*arguments], catch_exceptions=True)


def test_key_is_printed_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    options = ["--keys-file", str(file)]

    made = run("add", "webui", "--priority", "5", "--consumer", "llama", "--interactive", "--json", *options)
    secret = json.loads(made.stdout)["key"]
    listed = run("list", *options)

    assert made.exit_code == 0, made.output
    assert secret not in file.read_text(encoding="utf-8")
    assert hash_of(secret) in file.read_text(encoding="utf-8")
    assert listed.stdout == "webui  priority 5  llama  interactive\n"
    assert json.loads(run("list", "--json", *options).stdout)[0]["consumers"] == ["llama"]


def test_name_that_is_taken_or_invalid_is_refused(tmp_path: Path) -> None:
    options = ["--keys-file", str(tmp_path / "keys.toml")]
    assert run("add", "a", *options).exit_code == 0

    assert isinstance(run("add", "a", *options).exception, Failure)
    assert run("add", "a b", *options).exit_code == 2


def test_removed_key_is_gone(tmp_path: Path) -> None:
    options = ["--keys-file", str(tmp_path / "keys.toml")]
    run("add", "a", *options)
    run("add", "b", *options)

    assert run("remove", "a", *options).exit_code == 0
    assert run("list", *options).stdout.split()[0] == "b"
    assert "There is no key a" in str(run("remove", "a", *options).exception)


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    failed = run("add", "a", "--keys-file", str(tmp_path / "missing" / "keys.toml"))

    assert "cannot be written: No such file or directory" in str(failed.exception)


@pytest.mark.parametrize("text", ["[keys.a]\nsha256 = 'x'", "no toml"])
def test_unusable_file_is_not_changed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text, encoding="utf-8")

    assert run("add", "b", "--keys-file", str(file)).exception is not None
    assert file.read_text(encoding="utf-8") == text
