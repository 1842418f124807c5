"""The man pages document every command, option, exit status, key, preset, interface member and error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from gpumand.cli.app import COMMANDS, gpumanctl
from gpumand.cli.errors import ExitCode
from gpumand.config.presets import preset_names
from gpumand.config.schema import TABLES
from gpumand.config.table_schema import keys_of
from gpumand.domain import errors
from gpumand.fleet.config import TABLES as FLEET_TABLES

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted((ROOT / "dbus").glob("org.gpumand1.*.xml"))
Pages = dict[str, str]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Return the pages as Markdown, by name, with their generated lists."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "scripts/man.py", "--markdown", folder], check=True)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def terms(page: str) -> list[str]:
    """Return the terms of all definition lists of a page."""
    return re.findall(r"^(.+)\n: .", page, re.MULTILINE)


def explained(page: str) -> set[str]:
    """Return the bold words in the terms of a page."""
    return {word for term in terms(page) for word in re.findall(r"\*\*([^*]+)\*\*", term)}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command of gpumanctl with its name."""
    context = click.Context(gpumanctl, info_name="gpumanctl")
    for name in COMMANDS:
        command = gpumanctl.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())


def test_every_page_has_the_required_sections(pages: Pages) -> None:
    others = {"gpumand-gateway.8", "gateway.toml.5", "gpumand-notify.8", "gpumand-fleet.8", "fleet.toml.5"}
    assert set(pages) == {"gpumand.8", "gpumanctl.1", "gpumand.toml.5", "org.gpumand1.5"} | others
    for name, text in pages.items():
        title, section = name.rsplit(".", 1)
        assert text.startswith(f"% {title.upper()} {section} ")
        assert re.search(rf"^# NAME\n\n{re.escape(title)} - \S", text, re.MULTILINE)
        assert {"# SYNOPSIS", "# DESCRIPTION", "# SEE ALSO"} <= set(text.splitlines())
        assert "<!--" not in text
        assert "@" not in re.sub(r"`[^`]*`", "", text.partition("# NAME")[0])


def test_placeholder_names_the_kind_of_value(pages: Pages) -> None:
    page = pages["gpumanctl.1"]
    assert "**--consumers** *FILE*" in page
    assert "**--requests** *NUMBER*" in page


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_command_is_documented_with_its_options(pages: Pages, name: str, command: click.Command) -> None:
    page = pages["gpumanctl.1"]
    section = re.search(rf"^### {name}( [^\n]+)?\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert section
    global_options = explained(page.partition("# INSPECT")[0])
    options = {word for one in command.params if isinstance(one, click.Option) for word in one.opts}
    assert options - global_options <= explained(section[2])


def test_every_exit_status_of_gpumanctl_is_documented(pages: Pages) -> None:
    assert {str(code.value) for code in ExitCode} <= explained(pages["gpumanctl.1"].partition("# EXIT STATUS")[2])


def test_every_option_of_the_daemon_is_documented(pages: Pages) -> None:
    done = subprocess.run([sys.executable, "-m", "gpumand", "--help"], capture_output=True, text=True, check=True)
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert len(options) > 5
    assert options <= explained(pages["gpumand.8"])


def test_every_option_and_exit_status_of_the_gateway_is_documented(pages: Pages) -> None:
    command = [sys.executable, "-m", "gpumand.gateway", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert len(options) > 4
    page = pages["gpumand-gateway.8"]
    assert options <= explained(page)
    assert explained(page.partition("# EXIT STATUS")[2]) >= {"0", "2", str(os.EX_CONFIG)}


def test_every_option_and_exit_status_of_the_fleet_is_documented(pages: Pages) -> None:
    command = [sys.executable, "-m", "gpumand.fleet", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert len(options) > 4
    page = pages["gpumand-fleet.8"]
    assert options == {one for one in explained(page) if one.startswith("--")}
    assert explained(page.partition("# EXIT STATUS")[2]) >= {"0", "2", str(os.EX_CONFIG)}
    keys = {key for table in FLEET_TABLES.values() for key in keys_of(table)}
    assert keys <= explained(pages["fleet.toml.5"])


def test_every_exit_status_of_the_daemon_is_documented(pages: Pages) -> None:
    usage, configuration = 2, os.EX_CONFIG
    documented = explained(pages["gpumand.8"].partition("# EXIT STATUS")[2])
    assert documented >= {"0", "1", str(usage), str(configuration)}


def test_every_http_path_is_documented(pages: Pages) -> None:
    source = (ROOT / "gpumand/http/endpoints.py").read_text(encoding="utf-8")
    paths = set(re.findall(r'"(/[a-z0-9/]+)"', source))
    assert len(paths) > 3
    assert {f"GET {path}" for path in paths} <= explained(pages["gpumand.8"])


def test_every_polkit_action_is_documented(pages: Pages) -> None:
    policy = ElementTree.parse(ROOT / "dbus/org.gpumand1.policy")
    actions = {one.get("id", "") for one in policy.iter("action")}
    assert actions
    assert actions <= explained(pages["gpumand.8"])


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_a_table_is_documented_with_its_default(pages: Pages, table: str) -> None:
    name = table if "." in table else table.upper()
    part = pages["gpumand.toml.5"].partition(f"# \\[{name}\\]\n")[2].partition("\n# ")[0]
    assert explained(part) == set(keys_of(TABLES[table]))
    assert len(re.findall(r"; (default: \S.*|required)\)$", part, re.MULTILINE)) == len(keys_of(TABLES[table]))


def test_every_preset_is_documented(pages: Pages) -> None:
    assert set(preset_names()) <= explained(pages["gpumand.toml.5"].partition("# PRESETS")[2])


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_every_member_of_an_interface_is_documented_with_its_arguments(pages: Pages, path: Path) -> None:
    (interface,) = ElementTree.parse(path).iter("interface")
    part = pages["org.gpumand1.5"].partition(f"# {path.stem.upper()}\n")[2].partition("\n# ")[0]
    for kind in ("method", "signal", "property"):
        for member in interface.iter(kind):
            (term,) = (one for one in terms(part) if f"**{member.get('name')}**" in one)
            names = [one.get("name", "").replace("_", r"\_") for one in member.findall("arg")]
            assert re.findall(r"\*([^*]+)\*", term.partition("(")[2]) == names


def test_every_error_is_documented(pages: Pages) -> None:
    names = {
        one.dbus_name
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.GpumandError) and "dbus_name" in vars(one)
    }
    assert len(names) > 10
    assert names <= explained(pages["org.gpumand1.5"])
