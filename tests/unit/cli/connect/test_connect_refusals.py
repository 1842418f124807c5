"""Settings files and arguments that ``gpumanctl connect`` and ``disconnect`` refuse, or change only with a note."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from pathlib import Path

import pytest
import yaml

from gpumand.cli.connect import settings_file
from gpumand.cli.connect.marked_lines import CannotEdit
from tests.unit.cli.connect.settings_home import AIDER, CODEX, GATEWAY, WEBUI, Home


@pytest.mark.parametrize(
    ("program", "name", "text", "reason"),
    [
        ("codex", ".codex/config.toml", "model = \n", "it is not valid TOML"),
        (
            "codex",
            ".codex/config.toml",
            "[model_providers.gpumand]\nname='a'\n",
            "it has a table [model_providers.gpumand]",
        ),
        ("codex", ".codex/config.toml", 'model_provider = """\nopenai"""\n', "it is not valid TOML"),
        ("codex", ".codex/config.toml", '"model_provider" = "openai"\n', "it is not valid TOML"),
        ("aider", ".aider.conf.yml", "{dark-mode: true}\n", "its line 1 is not the beginning of a setting"),
        (
            "aider",
            ".aider.conf.yml",
            "openai-api-base: >\n  http://a\n",
            "its value of openai-api-base is not one line",
        ),
        (
            "aider",
            ".aider.conf.yml",
            'openai-api-base: "http:\n  //a"\n',
            "its value of openai-api-base is not one line",
        ),
        ("aider", ".aider.conf.yml", "a: 1\n---\nb: 1\n---\n", "it has several documents"),
        ("aider", ".aider.conf.yml", "a: 1\n\tb: 1\n", "its line 2 is indented with a tab"),
        (
            "continue",
            ".continue/config.yaml",
            "models: [{name: a}]\n",
            "its models are not a list with one item per line",
        ),
        ("continue", ".continue/config.yaml", "models:\n  a: 1\n", "its models are not a list"),
        ("continue", ".continue/config.yaml", "models:\nmodels:\n", "it sets models twice"),
        ("continue", ".continue/config.json", "{}", "Continue ignores"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_with_the_reason(
    home: Home, program: str, name: str, text: str, reason: str
) -> None:
    home.write(name, text)
    before = home.files()
    done = home.ctl("connect", program)
    assert done.code == 1
    assert reason in done.out
    assert "Traceback" not in done.err
    assert home.files() == before


def test_other_kinds_of_files_are_refused(home: Home, tmp_path: Path) -> None:
    path = home.path / ".aider.conf.yml"
    elsewhere = tmp_path / "dotfiles.yml"
    elsewhere.write_text(AIDER)
    path.symlink_to(elsewhere)
    assert f"it is a symbolic link to {elsewhere}" in home.ctl("connect", "aider").out
    path.unlink()
    os.link(elsewhere, path)
    assert "it has a second name (a hard link)" in home.ctl("connect", "aider").out
    path.unlink()
    path.mkdir()
    assert "it is not a regular file" in home.ctl("connect", "aider").out
    path.rmdir()
    os.mkfifo(path)
    assert "it is not a regular file" in home.ctl("connect", "aider").out
    path.unlink()
    path.write_bytes(b"# " + b"x" * (1 << 20))
    assert "it is larger than 1024 KiB" in home.ctl("connect", "aider").out
    path.write_bytes(b"a: \xff\n")
    assert "it is not UTF-8" in home.ctl("connect", "aider").out
    path.write_bytes(b"a: 1\n")
    path.chmod(0o440)
    assert "it is read-only" in home.ctl("connect", "aider").out
    assert elsewhere.read_text() == AIDER
    assert home.ctl("disconnect").out == "no program: not connected by gpumanctl.\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
def test_a_file_of_another_user_is_refused(home: Home) -> None:
    path = home.write(".aider.conf.yml", AIDER)
    os.chown(path, 65534, 65534)
    assert "it belongs to nobody" in home.ctl("connect", "aider").out
    path.unlink()
    os.chown(home.path, 65534, 65534)
    assert f"its folder {home.path} belongs to nobody" in home.ctl("connect", "aider").out
    refused = home.ctl("connect", "aider", SUDO_USER="alice")
    assert (refused.code, "Run it as alice, without sudo" in refused.err) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another group")
def test_the_group_of_a_file_stays(home: Home) -> None:
    path = home.write("open-webui/.env", WEBUI)
    os.chown(path, -1, 33)
    for arguments in (("connect", "open-webui"), ("disconnect",)):
        assert home.ctl(*arguments).code == 0
        assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (33, 0o640)


def test_a_file_whose_group_would_be_lost_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings"
    path.write_text("before")

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    before = os.stat_result((0o100640, 0, 0, 1, os.geteuid(), path.stat().st_gid + 1, 0, 0, 0, 0))
    with pytest.raises(CannotEdit, match="its group is"):
        settings_file._replace(path, "after", before)
    assert [one.name for one in tmp_path.iterdir()] == ["settings"]
    assert path.read_text() == "before"


def test_one_refusal_does_not_keep_the_others_from_being_connected(home: Home) -> None:
    home.write(".codex/config.toml", "model = \n")
    path = home.write(".aider.conf.yml", AIDER)
    done = home.ctl("connect")
    assert done.code == 1
    assert GATEWAY in path.read_text()


def test_damaged_marks_are_left_to_the_user_with_the_way_to_the_backup(home: Home) -> None:
    path = home.write(".aider.conf.yml", AIDER)
    home.ctl("connect", "aider")
    path.write_text(path.read_text().replace("# <<< gpumanctl connect <<<\n", ""))
    changed = path.read_text()
    done = home.ctl("disconnect")
    assert done.code == 1
    assert "was not changed: the line '# <<< gpumanctl connect <<<' is missing" in done.out
    place = home.path / ".local/state/gpumand/connect/aider.json"
    assert str(place) in done.out
    assert json.loads(place.read_text())["before"] == AIDER
    assert place.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == changed
    place.write_text("{}")
    assert "is damaged" in home.ctl("disconnect").out


def test_a_file_that_was_removed_since_stays_removed(home: Home) -> None:
    path = home.write(".aider.conf.yml", AIDER)
    home.ctl("connect", "aider")
    path.unlink()
    assert "was removed since" in home.ctl("disconnect").out
    assert not path.exists()


def test_another_file_of_the_same_program_must_be_disconnected_first(home: Home) -> None:
    home.write(".aider.conf.yml", AIDER)
    other = home.write("project/.aider.conf.yml", AIDER)
    home.ctl("connect", "aider")
    done = home.ctl("connect", "--file", f"aider={other}")
    assert (done.code, "Take that back first: gpumanctl disconnect aider" in done.out) == (1, True)


def test_the_key_of_the_gateway_is_written(home: Home) -> None:
    home.write(".aider.conf.yml", "openai-api-key: mine\n")
    home.write(".codex/config.toml", CODEX)
    key = home.write("key", "gk_0123\n")
    home.ctl("connect", "--key-file", str(key))
    assert yaml.safe_load((home.path / ".aider.conf.yml").read_text())["openai-api-key"] == "gk_0123"
    provider = tomllib.loads((home.path / ".codex/config.toml").read_text())["model_providers"]["gpumand"]
    assert provider["experimental_bearer_token"] == "gk_0123"
    for text in ("a b\n", "", "$(date)"):
        home.write("key", text)
        assert "does not contain an API key" in home.ctl("connect", "aider", "--key-file", str(key)).err
    assert "cannot read" in home.ctl("connect", "aider", "--key-file", "nothing").err


@pytest.mark.parametrize(("mode", "is_noted"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_key_in_a_file_that_others_can_read_is_noted(mode: int, is_noted: bool) -> None:
    # The folders of pytest are closed to other users, so that no file in them can be read.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        home = Home(Path(folder))
        path = home.write(".aider.conf.yml", AIDER, mode)
        key = home.write("key", "gk_0123\n")
        note = f"Other users can read {path}, and with it the key. If only you need the file: chmod 600 {path}"
        assert note not in home.ctl("connect", "aider").out
        assert (note in home.ctl("connect", "aider", "--key-file", str(key)).out) is is_noted
        Path(folder).chmod(0o700)
        assert note not in home.ctl("connect", "aider", "--key-file", str(key)).out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "gpu:8770"),
        ("--url", 'http://a";rm -rf'),
        ("--model", "$(date)"),
        ("--file", "aider"),
        ("--file", "vim=/tmp/x"),
        ("vim",),
    ],
)
def test_wrong_arguments_are_refused(home: Home, arguments: tuple[str, ...]) -> None:
    done = home.ctl("connect", *(("aider",) if arguments[0] != "vim" else ()), *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert home.files() == {}


def test_a_gateway_that_does_not_answer_is_reported(home: Home) -> None:
    done = home.ctl("connect", "aider", "--url", "http://127.0.0.1:1")
    assert "Nothing answers at http://127.0.0.1:1: Connection refused. Start it:" in done.err
    assert "Start it: sudo systemctl enable --now gpumand-gateway.socket" in done.err


def test_another_host_that_does_not_answer_is_not_started_here(home: Home) -> None:
    done = home.ctl("connect", "aider", "--url", "http://gpu.invalid:8770")
    assert "Check the gateway on that host" in done.err
    assert "systemctl" not in done.err


def test_programs_that_keep_a_key_of_the_user_say_that_the_gateway_gets_it(home: Home) -> None:
    for program in ("aider", "shell"):
        assert "is sent to the gateway" in home.ctl("connect", program, "--dry-run").out
