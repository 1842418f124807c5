"""The swap of ports for ``gpumanctl init --gateway``: reads configuration, units and ports, and writes the files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gpumand.bus.connection import BusConnection
from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.names import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_SERVICE
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.swap_undo.lock import LOCK
from gpumand.cli.swap_undo.record import (
    RECORD,
    DropIn,
    ListenerTable,
    MovedService,
    UrlLine,
    read_record,
    write_record,
)
from gpumand.config import DEFAULT_FILE, DEFAULT_FOLDER, load
from gpumand.config.files import config_files, list_toml_files, read
from gpumand.config.presets import Preset, preset
from gpumand.config.problems import ProblemList
from gpumand.config.toml_writer import toml_key
from gpumand.config.url_edit import CannotEdit, with_url
from gpumand.config.whole_file import write_whole
from gpumand.discovery.host import Listener
from gpumand.discovery.port_swap import Skipped, Swap, UnitCommand, plan_swaps
from gpumand.discovery.sockets import listeners
from gpumand.gateway import config as gateway_config

UNIT_FOLDER = Path("/etc/systemd/system")
DROP_IN = "gpumand-gateway.conf"
WAY_BACK = "# To undo, remove this file and set the old url: "
"""Start of the first line of a drop-in. The Debian package prints what follows when it is removed."""

YES = "sudo gpumanctl init --gateway --yes"
CALL_SEC = 10.0
_PREFIXES = {"ignore-failure": "-", "privileged": "+", "no-setuid": "!", "no-env-expand": ":"}


@dataclass(slots=True)
class Proposal:
    """Everything that would be done.

    Attributes:
        swaps: the changes.
        skipped: consumers without a change.
        files: new content of each file that is written.
        url_files: the file with the url of each consumer.
        manual_edits: what could not be prepared as a file, one line each.
        moves: what is written for each service, for its way back.
        record: where that is recorded.
        enabled: units of the gateway that will be enabled for it.
    """

    swaps: list[Swap]
    skipped: list[Skipped]
    files: dict[Path, str] = field(default_factory=dict)
    url_files: dict[str, Path] = field(default_factory=dict)
    manual_edits: list[str] = field(default_factory=list)
    moves: list[MovedService] = field(default_factory=list)
    record: Path = RECORD
    enabled: tuple[str, ...] = ()

    @property
    def ready(self) -> list[Swap]:
        """The changes that are prepared as files."""
        return [one for one in self.swaps if not one.todo]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files are.

    Attributes:
        config: gpumand's configuration, a file or a folder; None = the files in /etc/gpumand that the daemon reads.
        gateway: the gateway's configuration.
        units: folder of the units' drop-ins.
        record: the record of what was moved.
        lock: the lock of the commands that change these files.
    """

    config: Path | None = None
    gateway: Path = gateway_config.DEFAULT_FILE
    units: Path = UNIT_FOLDER
    record: Path = RECORD
    lock: Path = LOCK


async def propose(bus_address: str, places: Places) -> Proposal:
    """Plan the swap for the configured consumers.

    Args:
        bus_address: "system", or the address of the bus of systemd.
        places: where the files are.

    Raises:
        ConfigProblems: a configuration has errors.
    """
    settings = await asyncio.to_thread(load, places.config)
    gateway = await asyncio.to_thread(_gateway_settings, places.gateway)
    consumers = settings.consumers
    commands = await _commands(bus_address, sorted({one.unit for one in consumers.values()} - {""}))
    open_ports, _ = await asyncio.to_thread(listeners)
    presets = await asyncio.to_thread(_presets, places.config)
    ports = {one.port for one in open_ports}
    exposed = {one.port for one in open_ports if not _is_loopback(one.address)}
    bound = _bound(open_ports)
    swaps, skipped = plan_swaps(consumers, presets, commands, ports, _offered(gateway), exposed, bound)
    proposal = Proposal(swaps, skipped)
    _prepare(proposal, places)
    return proposal


def without(proposal: Proposal, left_out: Collection[str], places: Places) -> Proposal:
    """The proposal without the changes of some consumers.

    Args:
        proposal: all changes.
        left_out: names of the consumers that stay as they are.
        places: where the files are.
    """
    kept = Proposal([one for one in proposal.swaps if one.consumer not in left_out], proposal.skipped)
    _prepare(kept, places)
    return kept


def apply(proposal: Proposal) -> None:
    """Write the files; each is replaced as a whole. Raises Failure."""
    _record(proposal)
    for path, text in proposal.files.items():
        try:
            replace_file(path, text)
        except OSError as error:
            written = [str(one) for one in proposal.files if one != path and _has(one, proposal.files[one])]
            done = f" Already written: {', '.join(written)}." if written else ""
            what = f"cannot write {path}: {error.strerror}.{done} Run it as root: {YES}"
            raise Failure(ExitCode.FAILURE, what) from None


def _record(proposal: Proposal) -> None:
    """Record the moves before the files are written, so that a part of them can be undone too."""
    if not proposal.moves:
        return
    try:
        write_record(proposal.record, read_record(proposal.record).with_moves(proposal.moves, proposal.enabled))
    except OSError as error:
        what = f"cannot write {proposal.record}: {error.strerror}. Run it as root: {YES}"
        raise Failure(ExitCode.FAILURE, what) from None


def _is_loopback(text: str) -> bool:
    address = ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _bound(open_ports: Iterable[Listener]) -> dict[int, str]:
    """The ports that are open at one address of a network only, such as 192.168.1.5, and that address."""
    found: dict[int, set[str]] = {}
    for one in open_ports:
        found.setdefault(one.port, set()).add(one.address)
    alone = {port: addresses.pop() for port, addresses in found.items() if len(addresses) == 1}
    return {port: one for port, one in alone.items() if not _is_loopback(one) and not ip_address(one).is_unspecified}


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _gateway_settings(path: Path) -> gateway_config.GatewaySettings:
    return gateway_config.load(path) if path.exists() else gateway_config.GatewaySettings()


def _offered(settings: gateway_config.GatewaySettings) -> dict[str, list[int]]:
    """The TCP ports of the gateway's listeners, by consumer."""
    found: dict[str, list[int]] = {}
    for one in settings.listeners.values():
        ports = [int(address.rpartition(":")[2]) for address in one.listen if not address.startswith("unix:")]
        found.setdefault(one.consumer, []).extend(ports)
    return found


def _presets(config: Path | None) -> dict[str, Preset]:
    """The preset of each consumer that uses one."""
    names = {name: table.get("preset", "") for _, tables in documents(config) for name, table in tables.items()}
    return {name: preset(used) for name, used in names.items() if used}


def documents(config: Path | None) -> Iterable[tuple[Path, Mapping[str, Any]]]:
    """Each file of the configuration with its tables of consumers."""
    problems = ProblemList()
    files = [DEFAULT_FILE, *list_toml_files(DEFAULT_FOLDER, problems, optional=True)]
    for path in config_files(config, problems) if config else files:
        document = read(path, problems, optional=True)
        if document is not None:
            yield path, document.table.get("consumers", {})


# -- what systemd says -------------------------------------------------------------------------------------------------


async def _commands(bus_address: str, units: Iterable[str]) -> dict[str, UnitCommand]:
    """How each unit starts its server; units that systemd does not know are left out."""
    try:
        bus = await BusConnection.connect(bus_address)
    except BusLost:
        return {}
    found: dict[str, UnitCommand] = {}
    try:
        for unit in units:
            with suppress(BusError, BusLost):
                found[unit] = await _command(bus, unit)
    finally:
        await bus.close()
    return found


async def _command(bus: BusConnection, unit: str) -> UnitCommand:
    (path,) = await bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", "s", (unit,), timeout_sec=CALL_SEC)

    async def get(name: str) -> Any:
        arguments = (SYSTEMD_SERVICE, name)
        (value,) = await bus.call(SYSTEMD, path, PROPERTIES, "Get", "ss", arguments, timeout_sec=CALL_SEC)
        return getattr(value, "value", value)

    starts, environment = await get("ExecStartEx"), await get("Environment")
    return UnitCommand(_argv(starts), tuple(map(str, environment)))


def _argv(starts: Any) -> tuple[str, ...]:
    """The words of the only command, with its prefixes; empty if there is not exactly one that can be written again."""
    if len(starts) != 1:
        return ()
    path, argv, flags = str(starts[0][0]), [str(one) for one in starts[0][1]], starts[0][2]
    if not argv or argv[0] != path or any(one not in _PREFIXES for one in flags):
        return ()
    return ("".join(_PREFIXES[one] for one in flags) + path, *argv[1:])


# -- the files ---------------------------------------------------------------------------------------------------------


def _prepare(proposal: Proposal, places: Places) -> None:
    """Fill in the files of all changes that need no person, and the record of each."""
    proposal.record = places.record
    made = {one.consumer: MovedService(one.consumer, one.unit, one.old_port, one.new_port) for one in proposal.ready}
    for swap in proposal.ready:
        if swap.drop_in:
            drop_in = _drop_in(places.units / f"{swap.unit}.d" / DROP_IN, f"{_way_back(swap)}\n{swap.drop_in}")
            proposal.files[Path(drop_in.path)] = drop_in.written
            url = _prepare_url(proposal, places.config, swap)
            made[swap.consumer] = replace(made[swap.consumer], drop_in=drop_in, url=url)
    if proposal.ready:
        is_new = not places.gateway.exists()
        text = "" if is_new else places.gateway.read_text(encoding="utf-8")
        for swap in proposal.ready:
            added = listener_text(text, swap)
            table = ListenerTable(str(places.gateway), added, swap.old_port, made_file=is_new)
            made[swap.consumer] = replace(made[swap.consumer], listener=table)
            text += added
        proposal.files[places.gateway] = text
    proposal.moves = list(made.values())


def _drop_in(path: Path, text: str) -> DropIn:
    """A drop-in, and the file that it replaces. Raises Failure if that cannot be read: it could not be restored."""
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = None
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot read {path}, which the swap of ports replaces: {error}"
        raise Failure(ExitCode.FAILURE, f"{what}. Move its lines to another drop-in, remove it, and repeat") from None
    return DropIn(str(path), text, before, made_folder=not path.parent.exists())


def _way_back(swap: Swap) -> str:
    """A comment for those that remove the gateway: without the old url, gpumand would look at a port that is dead."""
    return f'{WAY_BACK}in /etc/gpumand, [consumers.{toml_key(swap.consumer)}]: url = "http://127.0.0.1:{swap.old_port}"'


def _prepare_url(proposal: Proposal, config: Path | None, swap: Swap) -> UrlLine | None:
    """Change the url of a consumer. Returns the line for the record; None if a person has to change it."""
    for path, tables in documents(config):
        if swap.consumer not in tables:
            continue
        try:
            text = proposal.files.get(path) or path.read_text(encoding="utf-8")
            proposal.files[path] = with_url(text, swap.consumer, swap.url)
            proposal.url_files[swap.consumer] = path
            return UrlLine(str(path), *changed_line(text, proposal.files[path]))
        except CannotEdit as error:
            text = f'{path}: {error}. Set there, for the consumer {swap.consumer}: url = "{swap.url}"'
            proposal.manual_edits.append(text)
    return None


def changed_line(before: str, after: str) -> tuple[str, str | None]:
    """The line that was written, and the line that it replaced; None if it was added."""
    old, new = before.split("\n"), after.split("\n")
    index = next((number for number, line in enumerate(new) if old[number : number + 1] != [line]), 0)
    return new[index], None if len(new) > len(old) else old[index]


def listener_text(before: str, swap: Swap) -> str:
    """What is added to the configuration of the gateway; nothing that is there changes, so that it can be taken out."""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    return f'{gap}[gateway.listeners.{toml_key(swap.consumer)}]\nlisten = "127.0.0.1:{swap.old_port}"\n'


def replace_file(path: Path, text: str) -> None:
    """Replace a file as a whole, with the mode and the owner that it has. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()

    def set_permissions(descriptor: int) -> None:
        if path.exists():
            now = path.stat()
            os.fchmod(descriptor, now.st_mode & 0o7777)
            os.fchown(descriptor, now.st_uid, now.st_gid)
        else:
            os.fchmod(descriptor, 0o644)

    write_whole(path, text.encode(), set_permissions)
