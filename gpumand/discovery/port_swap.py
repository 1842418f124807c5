"""Plans the swap of ports: a service moves to another port, and the gateway listens at the old one. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import urlsplit

from gpumand.config.presets import Preset
from gpumand.domain.consumer import ConsumerSpec

MAX_PORT = 65535
PORTS_TO_TRY = 100
SHELLS = ("sh", "bash", "dash", "env", "docker", "podman", "python", "python3")
"""Programs that do not take the options of the server that they start, unless its options follow."""

_ALL_ADDRESSES = ("0.0.0.0", "[::]", "::", "*")
_PORT_OPTION = re.compile(r"-p|-l|-b|--?[a-z-]*(port|listen|addr|address|bind|host|http|url)", re.IGNORECASE)
_HOST_OPTIONS = ("--host", "--listen-host", "--hostname", "--ip")


@dataclass(frozen=True, slots=True)
class UnitCommand:
    """How a unit starts its server.

    Attributes:
        argv: the words of ExecStart=, with the prefixes of the first one; empty if it has several commands or none.
        environment: assignments of Environment=.
    """

    argv: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Swap:
    """The change for one consumer.

    Attributes:
        consumer: its name.
        unit: its unit; "" without one.
        old_port: where clients look for it, and the gateway will listen.
        new_port: where it will listen.
        drop_in: text of a drop-in for its unit; "" if a person has to move it, or if it has moved already.
        todo: what a person has to do to move it; "" if nothing.
        is_narrowed: other hosts or containers can reach it now, and cannot afterwards.
    """

    consumer: str
    unit: str
    old_port: int
    new_port: int
    drop_in: str = ""
    todo: str = ""
    is_narrowed: bool = False

    @property
    def is_moved(self) -> bool:
        """Whether the service listens at its new port already, so that only the gateway is missing."""
        return not self.drop_in and not self.todo

    @property
    def url(self) -> str:
        """The new URL of the consumer."""
        return f"http://127.0.0.1:{self.new_port}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A consumer for which nothing is proposed, and the reason."""

    consumer: str
    why: str


def plan_swaps(
    consumers: Mapping[str, ConsumerSpec],
    presets: Mapping[str, Preset],
    commands: Mapping[str, UnitCommand],
    listening: Collection[int],
    offered: Mapping[str, Collection[int]],
    exposed: Collection[int] = (),
    bound: Mapping[int, str] = MappingProxyType({}),
) -> tuple[list[Swap], list[Skipped]]:
    """Plan the swap for all consumers with an HTTP address on this host.

    Args:
        consumers: the configured consumers.
        presets: the presets that they use, by consumer.
        commands: how the units start their servers, by unit.
        listening: TCP ports at which something listens.
        offered: ports at which the gateway is configured to listen, by consumer.
        exposed: those of ``listening`` that are open at other addresses than loopback.
        bound: those of ``listening`` that are open at one address of a network only, and that address.
    """
    taken = {*listening, *(_port(one) for one in consumers.values())}
    taken |= {port for ports in offered.values() for port in ports}
    swaps: list[Swap] = []
    skipped: list[Skipped] = []
    for name, spec in consumers.items():
        why = _why_not(spec, consumers, offered, bound)
        if why:
            skipped.append(Skipped(name, why))
            continue
        command = commands.get(spec.unit)
        swap = _swap(spec, presets.get(name), command, taken)
        is_open = swap.old_port in exposed or (command is not None and _is_open(command, swap.old_port))
        swaps.append(replace(swap, is_narrowed=is_open and not swap.is_moved))
        taken |= {swap.old_port, swap.new_port}
    return swaps, skipped


def _why_not(
    spec: ConsumerSpec,
    consumers: Mapping[str, ConsumerSpec],
    offered: Mapping[str, Collection[int]],
    bound: Mapping[int, str],
) -> str:
    if spec.name in offered:
        return "the gateway has a listener for it already"
    if at := _bound_to(spec, bound):
        return (
            f"it listens at {at} only, where the gateway needs API keys. Let it listen at 127.0.0.1, and set its url; "
            f'or see "A service at a LAN address" in the guide of the gateway'
        )
    if not _port(spec):
        return "it has no HTTP address on this host"
    sharing = [name for name, one in consumers.items() if name != spec.name and one.url == spec.url]
    if sharing:
        return f"it shares {spec.url} with {', '.join(sharing)}, and a listener leads to one consumer"
    return ""


def _bound_to(spec: ConsumerSpec, bound: Mapping[int, str]) -> str:
    """The address of a network at which alone the service of a consumer listens; "" without one."""
    try:
        parts = urlsplit(spec.url)
        address = bound.get(parts.port or 80, "") if parts.scheme == "http" else ""
    except ValueError:
        return ""
    return address if _port(spec) or parts.hostname == address.lower() else ""


def _port(spec: ConsumerSpec) -> int:
    """The port of a consumer on a loopback address; 0 without one."""
    try:
        parts = urlsplit(spec.url)
        is_local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        return (parts.port or 80) if is_local else 0
    except ValueError:
        return 0


def _swap(spec: ConsumerSpec, preset: Preset | None, command: UnitCommand | None, taken: Collection[int]) -> Swap:
    port = _port(spec)
    usual = preset.about.detect.ports[:1] if preset else ()
    if usual and port != usual[0] and usual[0] not in taken:
        # Clients look for it at its usual port, where nothing listens any more: it was moved before.
        return Swap(spec.name, spec.unit, usual[0], port)
    new = free_port(port, taken)
    if spec.container:
        inner = f"publish its port as 127.0.0.1:{new} instead of {port}, and create it again"
        return Swap(spec.name, spec.unit, port, new, todo=f"container {spec.container}: {inner}")
    lines = _moved(command, preset, port, new) if command is not None and spec.unit else None
    if lines is None:
        where = spec.unit or "the server"
        return Swap(spec.name, spec.unit, port, new, todo=f"let {where} listen at 127.0.0.1:{new} instead of {port}")
    return Swap(spec.name, spec.unit, port, new, drop_in="\n".join(["[Service]", *lines, ""]))


def free_port(port: int, taken: Collection[int]) -> int:
    """The next port above ``port`` that is not taken. Raises LookupError if there is none nearby."""
    for candidate in range(port + 1, min(port + PORTS_TO_TRY, MAX_PORT) + 1):
        if candidate not in taken:
            return candidate
    raise LookupError(f"no port between {port + 1} and {port + PORTS_TO_TRY} is free")


def _moved(command: UnitCommand, preset: Preset | None, old: int, new: int) -> list[str] | None:
    """The lines of a drop-in that move a server; None if it is not clear how."""
    argv = _with_port(command.argv, old, new)
    if argv is not None:
        return _exec_start(argv)
    for assignment in command.environment:
        name, _, value = assignment.partition("=")
        if (changed := _word_with_port(value, old, new)) is not None:
            return [f"Environment={_quoted(f'{name}={changed}')}"]
    about = preset.about if preset else None
    if about is not None and about.port_variable:
        return [f"Environment={about.port_variable.format(port=new)}"]
    if about is None or not about.port_arguments or not command.argv or not _takes_options(command.argv):
        return None
    return _exec_start((*command.argv, *(one.format(port=new) for one in about.port_arguments)))


def _takes_options(argv: Sequence[str]) -> bool:
    program = PurePosixPath(argv[0].lstrip("-+!:")).name
    # python3 main.py takes options, python3 alone or sh -c '...' do not.
    is_script = program.startswith("python") and len(argv) > 1 and not argv[1].startswith("-c")
    return is_script or program not in SHELLS


def _with_port(argv: Sequence[str], old: int, new: int) -> tuple[str, ...] | None:
    """The command with another port, at a loopback address; None if it does not name the port exactly once."""
    words, changes = list(argv), 0
    for index, word in enumerate(argv):
        # "--port 8080" and "--port=8080"
        option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        option = option or (argv[index - 1] if index else "")
        changed = _word_with_port(value, old, new)
        if changed is not None and _PORT_OPTION.fullmatch(option):
            words[index] = f"{word.removesuffix(value)}{changed}"
            changes += 1
        elif option in _HOST_OPTIONS and value in _ALL_ADDRESSES:
            words[index] = f"{option}{equals}127.0.0.1" if equals else "127.0.0.1"
    return tuple(words) if changes == 1 else None


def _word_with_port(word: str, old: int, new: int) -> str | None:
    """A word that ends with the port, with the new one; None for other words."""
    host = _host_before(word, old)
    # Only the gateway is meant to reach it now.
    return None if host is None else f"{'127.0.0.1:' if _is_every_address(host) else host}{new}"


def _host_before(word: str, port: int) -> str | None:
    """What is before the port in an address, with its colon; "" for a mere port, None for other words."""
    match = re.fullmatch(rf"((?:https?://)?(?:[\w.-]+|\[[0-9a-fA-F:]+\]|\*)?:)?{port}", word)
    return None if match is None else match[1] or ""


def _is_every_address(host: str) -> bool:
    return host.endswith(":") and (host == ":" or host.removesuffix(":") in _ALL_ADDRESSES)


def _is_open(command: UnitCommand, port: int) -> bool:
    """Whether a unit lets its server listen at all addresses, as far as its command and its environment say."""
    words = [one.rpartition("=")[2] for one in (*command.argv, *command.environment)]
    # An asterisk alone also permits origins of web pages, so that it says nothing here.
    return any(word in _ALL_ADDRESSES[:-1] or _is_every_address(_host_before(word, port) or "") for word in words)


def _exec_start(argv: Sequence[str]) -> list[str]:
    return ["ExecStart=", "ExecStart=" + " ".join(map(_quoted, argv))]


def _quoted(word: str) -> str:
    """A word for a unit file. ``$`` stays as it is, since systemd reports commands before it replaces variables."""
    escaped = word.replace("%", "%%")
    if re.fullmatch(r"[\w@+=:,./$%{}-]+", escaped):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
