#!/usr/bin/env python3
"""Generate the man pages from man/*.md and from lists that are read from the code.

usage: scripts/man.py [--markdown] FOLDER

A line ``<!-- name -->`` of a page is replaced by the list of that name, see ``LISTS``. go-md2man converts the pages to
roff. With ``--markdown`` they stay Markdown, for the HTML documentation.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpumand.cli.app import SECTIONS, gpumanctl  # noqa: E402 - imports follow the change of sys.path
from gpumand.cli.options import shared_names  # noqa: E402
from gpumand.config.presets import preset, preset_names  # noqa: E402
from gpumand.config.schema import TABLES  # noqa: E402
from gpumand.config.table_schema import Key, keys_of  # noqa: E402
from gpumand.domain import errors  # noqa: E402
from gpumand.fleet.config import TABLES as FLEET_TABLES  # noqa: E402
from gpumand.gateway.config import TABLES as GATEWAY_TABLES  # noqa: E402
from gpumand.notify.config import TABLES as NOTIFY_TABLES  # noqa: E402
from gpumand.version import VERSION  # noqa: E402

INTERFACES = ("Manager", "Device", "Consumer", "Lease")
DOC = "org.gtk.GDBus.DocString"
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
HOW_EMITTED = {"const": "never changes", "false": "changes are not announced", "invalidates": "changes invalidate it"}
"""Descriptions of a property's change signal; the default, a signal with the new value, is not described."""

GUIDES = """

The guides and the whole reference in HTML are in */usr/share/doc/gpumand/html/index.html*; on Debian and Ubuntu that is
the package **gpumand-doc**.
"""
"""The last paragraph of every page, below SEE ALSO."""


def main() -> None:
    """Write all pages to the folder."""
    parser = argparse.ArgumentParser(description="Generate the man pages.")
    parser.add_argument("--markdown", action="store_true", help="write Markdown instead of roff")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "man").glob("*.md")):
        text = fill_in(source.read_text(encoding="utf-8"))
        name = source.name if options.markdown else source.stem
        (options.folder / name).write_text(text if options.markdown else to_roff(text), encoding="utf-8")


def fill_in(page: str) -> str:
    """Return a page with its lists and the version filled in. Raises KeyError for an unknown list."""
    with_lists = re.sub(r"^<!-- ([a-z-]+) -->$", lambda match: LISTS[match[1]](), page, flags=re.MULTILINE)
    return with_lists.replace("@VERSION@", VERSION).rstrip("\n") + GUIDES


def to_roff(page: str) -> str:
    """Return a page converted to roff by go-md2man."""
    done = subprocess.run(["go-md2man"], input=page, capture_output=True, text=True, check=True)
    return done.stdout


def item(term: str, text: str) -> str:
    """Return an entry of a definition list."""
    return f"{term}\n: {escaped(' '.join(text.split()))}\n"


def escaped(text: str) -> str:
    """Escape text for Markdown, except for parts in backquotes."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<>*_\[\]|])", r"\\\1", part) for part in parts)


# -- gpumanctl(1) ------------------------------------------------------------------------------------------------------


def commands() -> str:
    """List every command with its options, grouped by purpose."""
    root = click.Context(gpumanctl, info_name="gpumanctl")
    return "\n".join(
        "\n".join([f"# {title.upper()}", "", *(part for name in names for part in _commands(gpumanctl, name, root))])
        for title, names in SECTIONS.items()
    )


def _commands(group: click.Group, name: str, above: click.Context) -> Iterator[str]:
    """List a command and its subcommands."""
    command = group.get_command(above, name)
    assert command is not None, name
    context = click.Context(command, info_name=name, parent=above)
    yield _command(command, context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _commands(command, inner, context)


def _command(command: click.Command, context: click.Context) -> str:
    name = context.command_path.removeprefix("gpumanctl ")
    shared = shared_names()
    own = [one for one in command.params if isinstance(one, click.Option) and one.name not in shared]
    usage = [*(["[OPTION...]"] if own else []), *command.collect_usage_pieces(context)[1:]]
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    return "\n".join([f"### {' '.join([name, *map(escaped, usage)])}", "", escaped(text), "", *map(_option, own)])


def global_options() -> str:
    """List the options that every command has."""
    context = click.Context(gpumanctl, info_name="gpumanctl", **gpumanctl.context_settings)
    return "\n".join(_option(one) for one in gpumanctl.get_params(context) if isinstance(one, click.Option))


def _option(option: click.Option) -> str:
    # click keeps the names of --help in a set, whose order differs from run to run: packages would differ as well.
    names = ", ".join(f"**{name}**" for name in (*sorted(option.opts, key=len), *option.secondary_opts))
    return item(names if option.is_flag else f"{names} *{_value(option)}*", option.help or "")


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(option.type.choices)
    return "FILE" if isinstance(option.type, click.Path | click.File) else "NUMBER"


# -- gpumand.toml(5) ---------------------------------------------------------------------------------------------------


def tables() -> str:
    """List every table of the configuration with its keys."""
    return "\n".join(_table(name, keys_of(table)) for name, table in TABLES.items())


def gateway_tables() -> str:
    """List every table of the gateway's configuration with its keys."""
    return "\n".join(_table(name, keys_of(table)) for name, table in GATEWAY_TABLES.items())


def fleet_tables() -> str:
    """List every table of the fleet's configuration with its keys."""
    return "\n".join(_table(name, keys_of(table)) for name, table in FLEET_TABLES.items())


def notify_tables() -> str:
    """List every table of the configuration of notifications with its keys."""
    return "\n".join(_table(name, keys_of(table)) for name, table in NOTIFY_TABLES.items())


def _table(name: str, keys: Mapping[str, Key]) -> str:
    return table_heading(name) + "\n".join(
        item(f"**{key.name}**", f"{key.doc} {value_of(key)}") for key in keys.values()
    )


def table_heading(name: str) -> str:
    """Return the heading of a table of the configuration."""
    return f"# [{name.upper() if '.' not in name else name}]\n\n".replace("[", "\\[").replace("]", "\\]")


def value_of(key: Key) -> str:
    """Describe the possible values of a key and its default."""
    kind = f"{key.value_type.description}{f', in {key.unit}' if key.unit else ''}"
    if key.required:
        return f"({kind}; required)"
    word_for_none = getattr(key.value_type, "word_for_none", "none")
    return f"({kind}; default: {word_for_none if key.default is None else _shown(key.default)})"


def _shown(value: Any) -> str:
    if value is None or value in ("", (), frozenset()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def presets() -> str:
    """List every preset with its purpose, its requirements and its notes."""
    return "\n".join(item(f"**{name}**", " ".join(_about(name))) for name in preset_names())


def _about(name: str) -> Iterator[str]:
    about = preset(name).about
    yield f"{about.title}. {about.summary}"
    if about.model != "none":
        yield f"The key model is {about.model}."
    if about.needs:
        yield f"Requirements of the server: {'; '.join(about.needs)}."
    if about.side_effects:
        yield f"Questions that wake the server or keep it awake: {', '.join(about.side_effects)}."
    yield from about.notes


# -- org.gpumand1(5) ---------------------------------------------------------------------------------------------------


def interfaces() -> str:
    """List every interface with its methods, signals and properties."""
    return "\n".join(_interface(ElementTree.parse(ROOT / "dbus" / f"org.gpumand1.{one}.xml")) for one in INTERFACES)


def _interface(document: ElementTree.ElementTree[Any]) -> str:
    (interface,) = document.getroot().iter("interface")
    parts = [f"# {interface.get('name', '').upper()}", "", escaped(_doc(interface)), ""]
    for kind, title, line in (
        ("method", "Methods", _call),
        ("signal", "Signals", _call),
        ("property", "Properties", _property),
    ):
        found = list(interface.iter(kind))
        parts += [f"### {title}", "", *map(line, found)] if found else []
    return "\n".join(parts)


def _doc(element: ElementTree.Element) -> str:
    return " ".join(_annotation(element, DOC).split())


def _annotation(element: ElementTree.Element, name: str) -> str:
    return next((one.get("value", "") for one in element.findall("annotation") if one.get("name") == name), "")


def _call(element: ElementTree.Element) -> str:
    arguments = element.findall("arg")
    out = [one for one in arguments if one.get("direction") == "out"]
    inputs = [one for one in arguments if one not in out]
    returns = f" → {_listed(out)}" if out else ""
    descriptions = [f"*{one.get('name')}*: {escaped(_doc(one))}" for one in arguments]
    text = " ".join([escaped(_doc(element)), *descriptions])
    return f"**{element.get('name')}**({_listed(inputs)}){returns}\n: {text}\n"


def _listed(arguments: list[ElementTree.Element]) -> str:
    return ", ".join(f"{one.get('type')} *{escaped(one.get('name', ''))}*" for one in arguments)


def _property(element: ElementTree.Element) -> str:
    emits = HOW_EMITTED.get(_annotation(element, EMITS))
    return item(f"**{element.get('name')}** {element.get('type')}", _doc(element) + (f" ({emits})" if emits else ""))


def error_names() -> str:
    """List every error by its D-Bus name."""
    found = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.GpumandError)]
    named = {one.dbus_name: one for one in found if "dbus_name" in vars(one)}
    return "\n".join(item(f"**{name}**", (one.__doc__ or "").splitlines()[0]) for name, one in named.items())


LISTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "global-options": global_options,
    "tables": tables,
    "gateway-tables": gateway_tables,
    "fleet-tables": fleet_tables,
    "notify-tables": notify_tables,
    "presets": presets,
    "interfaces": interfaces,
    "errors": error_names,
}

if __name__ == "__main__":
    main()
