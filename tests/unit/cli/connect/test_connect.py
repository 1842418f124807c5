"""``gpumanctl connect`` and ``disconnect`` on settings files as users have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from gpumand.cli.connect import settings_file
from gpumand.cli.connect.marked_lines import CannotEdit

GATEWAY = "http://127.0.0.1:8770"
CODEX = """# my settings
model = "gpt-5"   # the big one
model_provider = "openai" # default

[model_providers.azure]
name = "Azure"
base_url = "https://example.org/openai"

[tui]
theme = "dark"
"""
AIDER = """# my settings
dark-mode: true
openai-api-base: https://example.org/v1  # work
read:
- CONVENTIONS.md
# end
"""
CONTINUE = """name: My Config
version: 1.0.0
schema: v1
models:
  # for chat
  - name: Llama
    provider: ollama
    model: llama3.1:8b
    roles:
      - chat
rules:
  - Be brief
"""
WEBUI = """# Open WebUI
export WEBUI_NAME="ours"
OLLAMA_BASE_URL='http://localhost:11434'
OPENAI_API_BASE_URLS=https://example.org/v1;https://example.com/v1
OPENAI_API_KEYS=a;b
SCARF_NO_ANALYTICS=true
"""
BASHRC = "case $- in *i*) ;; *) ;; esac\nexport OPENAI_BASE_URL=https://example.org/v1\nexport EDITOR=vi\n"


@dataclass(frozen=True, slots=True)
class Done:
    """How gpumanctl ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Home:
    """A home directory, and gpumanctl for its user."""

    path: Path

    def ctl(self, *arguments: str, folder: str = ".", **environ: str) -> Done:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SUDO_", "XDG_"))}
        environ = {"HOME": str(self.path), "SHELL": "/bin/bash", "PATH": "/usr/bin:/bin", **environ}
        command = [sys.executable, "-m", "gpumand.cli", *arguments]
        done = subprocess.run(
            command,
            env=kept | environ,
            cwd=self.path / folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str, mode: int = 0o640) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        path.chmod(mode)
        return path

    def files(self) -> dict[str, bytes]:
        return {str(one.relative_to(self.path)): one.read_bytes() for one in self.path.rglob("*") if one.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    return Home(folder)


FILES = {
    "codex": (".codex/config.toml", CODEX),
    "aider": (".aider.conf.yml", AIDER),
    "continue": (".continue/config.yaml", CONTINUE),
    "open-webui": ("open-webui/.env", WEBUI),
    "shell": (".bashrc", BASHRC),
}
each = pytest.mark.parametrize("program", FILES)


@each
def test_the_file_is_put_back_byte_for_byte(home: Home, program: str) -> None:
    name, text = FILES[program]
    path = home.write(name, text)
    before = home.files()

    done = home.ctl("connect", program)
    assert (done.code, f"{program}: {path}: now uses the gateway." in done.out) == (0, True), done
    assert path.read_text() != text
    assert path.stat().st_mode & 0o777 == 0o640

    assert home.ctl("disconnect").out == f"{program}: {path}: is as it was before.\n"
    assert home.files() == before
    assert path.stat().st_mode & 0o777 == 0o640


@each
@pytest.mark.parametrize("text", ["", "# only a comment", "# no end of line\r\n# and another"])
def test_a_file_without_settings_is_put_back(home: Home, program: str, text: str) -> None:
    path = home.write(FILES[program][0], text)
    assert home.ctl("connect", program).code == 0
    assert path.read_bytes().count(b"\r\n") in (0, path.read_bytes().count(b"\n"))
    assert home.ctl("disconnect", program).code == 0
    assert path.read_bytes() == text.encode()


@each
def test_a_file_that_did_not_exist_is_removed_again(home: Home, program: str) -> None:
    name, _ = FILES[program]
    named = ("--file", f"open-webui={home.path / name}") if program == "open-webui" else ()
    assert home.ctl("connect", program, *named).code == 0
    path = home.path / name
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.ctl("disconnect").code == 0
    assert home.files() == {}
    assert path.parent == home.path or not path.parent.exists()


@each
def test_a_file_that_was_changed_since_keeps_the_changes(home: Home, program: str) -> None:
    name, text = FILES[program]
    path = home.write(name, text)
    home.ctl("connect", program)
    path.write_text(path.read_text() + "# added later\n")
    done = home.ctl("disconnect", program)
    assert "was changed since: only the lines of gpumanctl were removed" in done.out
    assert path.read_text() == text + "# added later\n"
    assert home.ctl("disconnect", program).out == f"{program}: not connected by gpumanctl.\n"


@each
def test_connecting_again_changes_nothing_and_another_address_replaces_the_first(home: Home, program: str) -> None:
    name, text = FILES[program]
    path = home.write(name, text)
    home.ctl("connect", program)
    once = path.read_text()
    assert "nothing to change" in home.ctl("connect", program).out
    assert path.read_text() == once
    home.ctl("connect", program, "--url", "http://gpu.example:9000/v1/")
    assert path.read_text() == once.replace(GATEWAY, "http://gpu.example:9000")
    home.ctl("disconnect", program)
    assert path.read_text() == text


@each
def test_a_dry_run_shows_the_difference_and_changes_nothing(home: Home, program: str) -> None:
    name, text = FILES[program]
    path = home.write(name, text)
    before = home.files()
    done = home.ctl("connect", program, "--dry-run")
    assert f"{program}: {path}: would use the gateway." in done.out
    assert f"  +++ {path}" in done.out
    assert GATEWAY in done.out
    assert home.files() == before
    home.ctl("connect", program)
    connected = home.files()
    assert "would be as it was before" in home.ctl("disconnect", "--dry-run").out
    assert home.files() == connected


def test_codex_gets_a_provider_of_its_own(home: Home) -> None:
    path = home.write(".codex/config.toml", CODEX)
    home.ctl("connect", "codex", "--model", "qwen3:32b")
    found = tomllib.loads(path.read_text())
    assert found["model_provider"] == "gpumand"
    assert found["model"] == "qwen3:32b"
    provider = {"name": "gpumand gateway", "base_url": f"{GATEWAY}/v1", "wire_api": "responses"}
    assert found["model_providers"]["gpumand"] == provider
    assert found["model_providers"]["azure"]["name"] == "Azure"
    assert found["tui"] == {"theme": "dark"}
    assert '# off by gpumanctl connect: model = "gpt-5"   # the big one' in path.read_text()


def test_aider_keeps_its_other_settings_and_the_key_of_the_user(home: Home) -> None:
    path = home.write(".aider.conf.yml", AIDER)
    home.ctl("connect", "aider")
    assert yaml.safe_load(path.read_text()) == {
        "dark-mode": True,
        "read": ["CONVENTIONS.md"],
        "openai-api-base": f"{GATEWAY}/v1",
        "openai-api-key": "gpumand",
    }
    other = home.write("other.yml", "openai-api-key: mine\n")
    home.ctl("disconnect")
    home.ctl("connect", "aider", "--file", f"aider={other}", "--model", "qwen3")
    assert yaml.safe_load(other.read_text())["openai-api-key"] == "mine"
    assert yaml.safe_load(other.read_text())["model"] == "openai/qwen3"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (CONTINUE, ["gpumand", "Llama"]),
        (CONTINUE.replace("  - ", "- ").replace("\n    ", "\n  "), ["gpumand", "Llama"]),
        ("name: a\nversion: 1.0.0\nschema: v1\nmodels: []  # none\n", ["gpumand"]),
        ("name: a\nversion: 1.0.0\nschema: v1\nmodels:\nrules:\n  - one\n", ["gpumand"]),
        ("name: a\nversion: 1.0.0\nschema: v1\n", ["gpumand"]),
        ("", ["gpumand"]),
    ],
)
def test_continue_gets_a_model_before_its_others(home: Home, text: str, names: list[str]) -> None:
    path = home.write(".continue/config.yaml", text)
    assert home.ctl("connect", "continue").code == 0
    found = yaml.safe_load(path.read_text())
    assert [one["name"] for one in found["models"]] == names
    assert found["models"][0]["apiBase"] == f"{GATEWAY}/v1"
    assert {"name", "version", "schema"} <= found.keys()
    before = yaml.safe_load(text) or {}
    assert {key: found[key] for key in before if key != "models"} == {k: v for k, v in before.items() if k != "models"}


def test_open_webui_reads_one_address_of_each_api(home: Home) -> None:
    path = home.write("open-webui/.env", WEBUI)
    done = home.ctl("connect", "open-webui")
    assert "at its first start only" in done.out
    script = f"set -a; . {path}; env"
    lines = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout.splitlines()
    found = dict(line.partition("=")[::2] for line in lines)
    assert found["OPENAI_API_BASE_URL"] == f"{GATEWAY}/v1"
    assert found["OLLAMA_BASE_URL"] == GATEWAY
    assert found["WEBUI_NAME"] == "ours"
    assert "OPENAI_API_BASE_URLS" not in found
    assert "OPENAI_API_KEYS" not in found


@pytest.mark.parametrize(
    ("shell", "name"),
    [("bash", ".bashrc"), ("sh", ".profile"), ("zsh", ".zshrc"), ("fish", ".config/fish/conf.d/gpumand.fish")],
)
def test_the_shell_gets_variables_in_its_own_start_file(home: Home, shell: str, name: str) -> None:
    home.ctl("connect", "shell", SHELL=f"/bin/{shell}")
    text = (home.path / name).read_text()
    if shell == "fish":
        assert f"set -gx OPENAI_BASE_URL {GATEWAY}/v1\n" in text
        return
    script = f". {home.path / name}; env"
    out = subprocess.run(
        ["sh", "-c", script], env={"OPENAI_API_KEY": "own"}, capture_output=True, text=True, check=True
    )
    lines = out.stdout.splitlines()
    assert {f"OPENAI_BASE_URL={GATEWAY}/v1", f"OLLAMA_HOST={GATEWAY}", f"ANTHROPIC_BASE_URL={GATEWAY}"} <= set(lines)
    assert "OPENAI_API_KEY=own" in lines


def test_what_a_file_cannot_set_is_printed(home: Home) -> None:
    for program in ("cline", "open-webui"):
        done = home.ctl("connect", program)
        assert done.code == 0
        assert f"{program}: set it yourself.\n" in done.out
        assert f"{GATEWAY}/v1" in done.out
    assert home.files() == {}


@pytest.mark.parametrize(
    ("folder", "text", "is_found"),
    [
        ("openscad-tools", "A=1\n", False),
        ("openai-bot", "OPENAI_API_BASE_URL=https://api.openai.com/v1\nOLLAMA_BASE_URL=http://a\n", False),
        ("bot", "MY_WEBUI_URL=http://a\n# WEBUI_AUTH=1\n", False),
        ("ai", "WEBUI_SECRET_KEY=a\n", True),
        ("ai", "A=1\nexport WEBUI_AUTH=False\n", True),
        ("my-open-webui", "A=1\n", True),
    ],
)
def test_the_settings_of_other_projects_are_not_those_of_open_webui(
    home: Home, folder: str, text: str, is_found: bool
) -> None:
    path = home.write(f"{folder}/.env", text)
    home.ctl("connect", "open-webui", folder=folder)
    assert (GATEWAY in path.read_text()) is is_found


def test_open_webui_is_looked_for_in_its_own_folder_first(home: Home) -> None:
    elsewhere = home.write("ai/.env", "WEBUI_AUTH=False\n")
    path = home.write("open-webui/.env", WEBUI)
    home.ctl("connect", "open-webui", folder="ai")
    assert (elsewhere.read_text(), GATEWAY in path.read_text()) == ("WEBUI_AUTH=False\n", True)


def test_without_a_name_the_programs_of_the_user_are_connected_but_not_the_shell(home: Home) -> None:
    nothing = home.ctl("connect")
    assert nothing.code == 1
    assert nothing.err.startswith("gpumanctl: none of open-webui, continue, cline, aider, codex was found")
    home.write(".codex/config.toml", CODEX)
    home.write(".aider.conf.yml", AIDER)
    home.write(".bashrc", BASHRC)
    done = home.ctl("connect")
    assert [line.partition(":")[0] for line in done.out.splitlines() if "now uses" in line] == ["aider", "codex"]
    assert "gpumanctl connect shell" in done.out
    assert (home.path / ".bashrc").read_text() == BASHRC
    rows = json.loads(home.ctl("connect", "--json").out)
    assert {one["program"]: one["action"] for one in rows} == {"aider": "unchanged", "codex": "unchanged"}


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

    monkeypatch.setattr(settings_file.os, "fchown", refuse)
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
