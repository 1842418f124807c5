"""The man pages tell of everything that there is: what is missing is found here, not by who looks it up."""

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

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted((ROOT / "dbus").glob("org.gpumand1.*.xml"))
Pages = dict[str, str]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The pages as Markdown, by name, with the lists that are made."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "scripts/man.py", "--markdown", folder], check=True)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def terms(page: str) -> list[str]:
    """What the definition lists of a page explain."""
    return re.findall(r"^(.+)\n: .", page, re.MULTILINE)


def explained(page: str) -> set[str]:
    """The words in bold among them."""
    return {word for term in terms(page) for word in re.findall(r"\*\*([^*]+)\*\*", term)}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of gpumanctl by its name."""
    context = click.Context(gpumanctl, info_name="gpumanctl")
    for name in COMMANDS:
        command = gpumanctl.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())


def test_every_page_has_its_parts(pages: Pages) -> None:
    assert set(pages) == {"gpumand.8", "gpumanctl.1", "gpumand.toml.5", "org.gpumand1.5"}
    for name, text in pages.items():
        title, section = name.rsplit(".", 1)
        assert text.startswith(f"% {title.upper()} {section} ")
        assert re.search(rf"^# NAME\n\n{re.escape(title)} - \S", text, re.MULTILINE)
        assert {"# SYNOPSIS", "# DESCRIPTION", "# SEE ALSO"} <= set(text.splitlines())
        assert "<!--" not in text
        assert "@" not in re.sub(r"`[^`]*`", "", text.partition("# NAME")[0])


def test_a_file_is_not_told_of_as_a_number(pages: Pages) -> None:
    page = pages["gpumanctl.1"]
    assert "**--consumers** *FILE*" in page
    assert "**--requests** *NUMBER*" in page


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_command_is_told_of_with_its_options(pages: Pages, name: str, command: click.Command) -> None:
    page = pages["gpumanctl.1"]
    told = re.search(rf"^### {name}( [^\n]+)?\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert told
    of_every_command = explained(page.partition("# LOOK")[0])
    options = {word for one in command.params if isinstance(one, click.Option) for word in one.opts}
    assert options - of_every_command <= explained(told[2])


def test_every_exit_status_of_gpumanctl_is_told_of(pages: Pages) -> None:
    assert {str(code.value) for code in ExitCode} <= explained(pages["gpumanctl.1"].partition("# EXIT STATUS")[2])


def test_every_option_of_the_daemon_is_told_of(pages: Pages) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "gpumand", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", said, re.MULTILINE))
    assert len(options) > 5
    assert options <= explained(pages["gpumand.8"])


def test_every_exit_status_of_the_daemon_is_told_of(pages: Pages) -> None:
    usage, configuration = 2, os.EX_CONFIG
    told = explained(pages["gpumand.8"].partition("# EXIT STATUS")[2])
    assert told >= {"0", "1", str(usage), str(configuration)}


def test_every_page_of_the_socket_is_told_of(pages: Pages) -> None:
    face = (ROOT / "gpumand/http/endpoints.py").read_text(encoding="utf-8")
    paths = set(re.findall(r'"(/[a-z0-9/]+)"', face))
    assert len(paths) > 3
    assert {f"GET {path}" for path in paths} <= explained(pages["gpumand.8"])


def test_every_polkit_action_is_told_of(pages: Pages) -> None:
    policy = ElementTree.parse(ROOT / "dbus/org.gpumand1.policy")
    actions = {one.get("id", "") for one in policy.iter("action")}
    assert actions
    assert actions <= explained(pages["gpumand.8"])


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_a_table_is_told_of_with_its_default(pages: Pages, table: str) -> None:
    name = table if "." in table else table.upper()
    part = pages["gpumand.toml.5"].partition(f"# \\[{name}\\]\n")[2].partition("\n# ")[0]
    assert explained(part) == set(keys_of(TABLES[table]))
    assert len(re.findall(r"; (default: \S.*|required)\)$", part, re.MULTILINE)) == len(keys_of(TABLES[table]))


def test_every_preset_is_told_of(pages: Pages) -> None:
    assert set(preset_names()) <= explained(pages["gpumand.toml.5"].partition("# PRESETS")[2])


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_every_member_of_an_interface_is_told_of_with_its_arguments(pages: Pages, path: Path) -> None:
    (interface,) = ElementTree.parse(path).iter("interface")
    part = pages["org.gpumand1.5"].partition(f"# {path.stem.upper()}\n")[2].partition("\n# ")[0]
    for kind in ("method", "signal", "property"):
        for member in interface.iter(kind):
            (term,) = (one for one in terms(part) if f"**{member.get('name')}**" in one)
            names = [one.get("name", "").replace("_", r"\_") for one in member.findall("arg")]
            assert re.findall(r"\*([^*]+)\*", term.partition("(")[2]) == names


def test_every_error_is_told_of(pages: Pages) -> None:
    names = {
        one.dbus_name
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.GpumandError) and "dbus_name" in vars(one)
    }
    assert len(names) > 10
    assert names <= explained(pages["org.gpumand1.5"])
