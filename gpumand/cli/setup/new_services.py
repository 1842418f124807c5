"""Services of this host that are not configured yet, and the file that configures them.

Only new files are written: what an administrator has written or changed stays.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.host_scan import ask_servers, scan_this_host
from gpumand.cli.options import GlobalOptions
from gpumand.config import DEFAULT_FOLDER, ConfigProblems, load, user_folder
from gpumand.config.files import DROP_IN_NAME
from gpumand.config.presets import preset, preset_names
from gpumand.config.whole_file import write_whole
from gpumand.discovery.found_place import short_place
from gpumand.discovery.matching import Candidate, find_candidates
from gpumand.discovery.missing_keys import missing_keys
from gpumand.discovery.starter_config import consumer_tables, probable_url
from gpumand.domain.consumer import ConsumerSpec, Settings
from gpumand.domain.wording import format_mib

HEADER = """\
# Written by gpumanctl setup from the services on this host. It belongs to you: setup does not change it again.
# The keys are described in gpumand.toml(5). After a change: gpumanctl config-check && gpumanctl reload

"""
NAME = "setup"
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class NewService:
    """A service that was found and is not configured.

    Attributes:
        name: name of its consumer.
        what: what it is and where, in a few words.
        table: its table in the configuration.
    """

    name: str
    what: str
    table: str

    @property
    def missing(self) -> list[str]:
        """Keys that it still needs. Setup does not guess them."""
        text = "\n".join(line for line in self.table.splitlines() if not line.startswith("#"))
        if not text.strip():
            return ["a unit or a container that can be stopped"]
        return [one.partition(": ")[2] for one in missing_keys(text)]

    def with_vram_mib(self, vram_mib: int) -> NewService:
        """The service with its footprint as a person has named it."""
        return replace(self, table=f"{self.table}vram_resident_mib = {vram_mib}  # as named during setup\n")


@dataclass(frozen=True, slots=True)
class Survey:
    """The result of the scan.

    Attributes:
        new: services that are not configured.
        configured: names of the consumers that are.
        devices: the GPUs, in a few words each.
        limits: what could not be scanned, one line each.
    """

    new: tuple[NewService, ...]
    configured: tuple[str, ...]
    devices: tuple[str, ...]
    limits: tuple[str, ...]


async def survey(options: GlobalOptions) -> Survey:
    """Scan this host for services. Raises Failure if the configuration has errors."""
    settings = current_settings(user=options.user)
    host = await scan_this_host(options, settings.gpu)
    found = find_candidates(host, [preset(name) for name in preset_names()])
    found, models = await ask_servers(host, found)
    consumers = settings.consumers
    new = [one for one in found if one.preset is not None and not is_configured(one, consumers)]
    tables = consumer_tables(host, new, models, consumers)
    services = tuple(NewService(name, _what(one), text) for name, (one, text) in tables.items())
    devices = tuple(
        f"GPU {one.index}: {one.name}, {format_mib(one.total_mib) if one.total_mib is not None else 'unknown size'}"
        for one in host.devices
    )
    is_partial = host.has_hidden_ports and not host.is_root
    ports = "the programs that listen at some ports; run it as root to see them" if is_partial else ""
    limits = (ports, _without_keyword(host.driver_error), host.units_error, host.engines_error)
    return Survey(services, tuple(consumers), devices, tuple(one for one in limits if one))


def _without_keyword(error: str) -> str:
    """The text of a driver's error; the keyword before it is for programs."""
    return error.partition(": ")[2] or error


def current_settings(*, user: bool) -> Settings:
    """The configuration as it is. Raises Failure if it has errors, with the first of them."""
    try:
        return load(user=user)
    except ConfigProblems as error:
        message = f"the configuration has errors: {error}. Show all of them: gpumanctl config-check"
        raise Failure(ExitCode.FAILURE, message) from None


def is_configured(candidate: Candidate, consumers: Mapping[str, ConsumerSpec]) -> bool:
    """Whether a consumer stands for this service: by its unit, its container, or its address."""
    container = candidate.container
    units = {candidate.unit} - {""}
    containers = {container.name, container.reference, container.key[:12]} - {""} if container is not None else set()
    cgroups = {container.cgroup_pattern, container.base} - {""} if container is not None else set()
    ports = {one.port for one in candidate.listeners}
    return any(
        spec.unit in units
        or spec.container.rpartition(":")[2] in containers
        or spec.container in containers
        or spec.cgroup in cgroups
        or _local_port(spec.url) in ports
        for spec in consumers.values()
    )


def add(services: list[NewService], *, user: bool) -> Path:
    """Write a new file with the services, and check the whole configuration.

    Raises:
        Failure: it cannot be written, or does not fit the other files; then nothing has changed.
    """
    folder = user_folder() / DROP_IN_NAME if user else DEFAULT_FOLDER
    path = next((one for one in _names(folder) if not os.path.lexists(one)), None)
    if path is None:
        raise Failure(ExitCode.FAILURE, f"{folder} has too many files of earlier runs. Join them")
    text = HEADER + "\n".join(one.table for one in services)
    try:
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, text)
    except OSError as error:
        advice = "gpumanctl init prints the tables, for the place where this host keeps its configuration"
        raise Failure(
            ExitCode.FAILURE, f"cannot write {path}: {error.strerror}. Nothing was changed; {advice}"
        ) from None
    try:
        load(user=user)
    except ConfigProblems as error:
        path.unlink()
        if created:
            with suppress(OSError):
                folder.rmdir()
        message = f"the services do not fit the rest of the configuration, so that {path} was not kept: {error}"
        raise Failure(ExitCode.FAILURE, message) from None
    return path


def _names(folder: Path) -> list[Path]:
    numbers = (folder / f"{NAME}-{number}.toml" for number in count(2))
    return [folder / f"{NAME}.toml", *(next(numbers) for _ in range(98))]


def _write(path: Path, text: str) -> None:
    """Write a file that appears as a whole, and never in place of another one."""
    write_whole(path, text.encode(), lambda descriptor: os.fchmod(descriptor, 0o644), os.link)


def _what(candidate: Candidate) -> str:
    """What a service is and where it runs, in a few words."""
    assert candidate.preset is not None
    port = urlsplit(probable_url(candidate)).port
    size = f", {format_mib(candidate.used_mib)} now" if candidate.used_mib is not None else ""
    return f"{candidate.preset.about.title} {short_place(candidate)}{f', port {port}' if port else ''}{size}"


def _local_port(url: str) -> int:
    try:
        parts = urlsplit(url)
        return (parts.port or 80) if parts.hostname in LOCAL else 0
    except ValueError:
        return 0
