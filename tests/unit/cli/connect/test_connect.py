"""``gpumanctl connect`` and ``disconnect`` on settings files as users have them."""

from __future__ import annotations

import json
import subprocess
import tomllib

import pytest
import yaml

from tests.unit.cli.connect.settings_home import AIDER, BASHRC, CODEX, CONTINUE, FILES, GATEWAY, WEBUI, Home

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
