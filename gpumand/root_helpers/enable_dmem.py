"""Enables the dmem cgroup controller, so that the kernel counts the VRAM of each unit; for gpumand-dmem.service.

systemd does not know this controller. It leaves a controller that it does not know enabled over reloads, new units and
changed properties, so that one run at boot suffices. The controller is enabled in the root cgroup, in system.slice, and
in the slices of the configured consumers: instances of a template, such as llama@qwen.service, are in a slice of their
own (system-llama.slice), which must exist before its first unit is started. Those slices are therefore started.

Memory that was allocated before is not charged to the unit that holds it. The file ``since`` names the time at which
each cgroup was enabled, so that the daemon does not take such units for empty.

Only configuration files that root owns and only root can write are read. No capability is needed: the files belong to
root.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
SINCE = Path("/run/gpumand-dmem/since")
CONFIG_FILE = Path("/etc/gpumand/gpumand.toml")
CONFIG_FOLDER = Path("/etc/gpumand/conf.d")
CONTROLLER = "dmem"
SYSTEM_SLICE = "system.slice"
MACHINE_SLICE = "machine.slice"
"""Slice of the containers that podman starts outside of units."""

ENGINE_CGROUPS = ("docker", "libpod_parent", "kubepods")
"""Cgroups of container engines that manage cgroups without systemd; they exist after the engine's first container."""

SYSTEMCTL_SEC = 10.0
MAX_FILE_BYTES = 1 << 20
MAX_SLICES = 256

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}\.(?:service|scope)")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}\.slice")
_CONTROLLER = re.compile(r"[a-z_]{1,32}")

Systemctl = Callable[..., str]


def consumer_tables(files: Iterable[Path], owner_uid: int = 0) -> list[Mapping[str, Any]]:
    """The tables of all consumers; a file that cannot be read or trusted is skipped, which is reported.

    Args:
        files: configuration files.
        owner_uid: user id that must own a file for it to count.
    """
    found: list[Mapping[str, Any]] = []
    for file in files:
        try:
            document = tomllib.loads(_read(file, owner_uid))
        except (OSError, ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
            print(f"{file} is skipped: {error}", file=sys.stderr)
            continue
        found += map(_table, _table(document.get("consumers")).values())
    return found


def _texts(tables: Iterable[Mapping[str, Any]], key: str) -> set[str]:
    return {value for table in tables if isinstance(value := table.get(key), str) and value}


def configuration_files() -> list[Path]:
    """The configuration files that the daemon reads by default."""
    return [file for file in (CONFIG_FILE, *sorted(CONFIG_FOLDER.glob("*.toml"))) if file.exists()]


def _read(file: Path, owner_uid: int) -> str:
    with file.open("rb") as stream:
        # fstat of the open file: a check by path could be passed by one file and the content read from another.
        info = os.fstat(stream.fileno())
        if info.st_uid != owner_uid or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not stat.S_ISREG(info.st_mode):
            raise PermissionError("it is writable by other users than root")
        return stream.read(MAX_FILE_BYTES).decode()


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def slice_path(name: str) -> str:
    """Path of a slice below the root cgroup: ``a-b.slice`` is ``a.slice/a-b.slice``; "" for the root slice."""
    parts = name.removesuffix(".slice").split("-")
    prefixes = ("-".join(parts[: count + 1]) for count in range(len(parts)))
    return "" if name == "-.slice" else "/".join(f"{prefix}.slice" for prefix in prefixes)


def systemctl(*arguments: str) -> str:
    """Output of systemctl; "" if it fails, which is reported."""
    try:
        done = subprocess.run(
            ["systemctl", *arguments], capture_output=True, text=True, timeout=SYSTEMCTL_SEC, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"systemctl {' '.join(arguments)}: {error}", file=sys.stderr)
        return ""
    if done.returncode:
        print(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout.strip()


def wanted_slices(consumers: Sequence[Mapping[str, Any]], run: Systemctl) -> list[str]:
    """The slices that units of consumers are in, as systemd names them, in a fixed order.

    Args:
        consumers: the tables of the consumers.
        run: calls systemctl.
    """
    units = sorted(unit for unit in _texts(consumers, "unit") if _UNIT.fullmatch(unit))
    found = {run("show", "--property=Slice", "--value", "--", unit) for unit in units} | _texts(consumers, "slice")
    if _texts(consumers, "container"):
        found.add(MACHINE_SLICE)
    others = found - {SYSTEM_SLICE, "-.slice"}
    return [SYSTEM_SLICE, *sorted(name for name in others if _SLICE.fullmatch(name))][:MAX_SLICES]


def user_chain(uid: int) -> list[str]:
    """Cgroups from the root to the programs of a user, which is logged in."""
    steps = ("user.slice", f"user-{uid}.slice", f"user@{uid}.service", "app.slice")
    return ["/".join(steps[: count + 1]) for count in range(len(steps))]


@dataclass
class Enabler:
    """Enables a controller in cgroups and remembers when.

    Attributes:
        controller: name of the controller.
        top: the root cgroup.
        failures: what could not be enabled, one line each.
        enabled: cgroups that were enabled by this run.
    """

    controller: str = CONTROLLER
    top: Path = CGROUPS
    failures: list[str] = field(default_factory=list)
    enabled: list[str] = field(default_factory=list)

    def is_available(self) -> bool:
        """Whether the kernel has the controller in the unified hierarchy."""
        return self.controller in self._words("", "cgroup.controllers")

    def enable(self, path: str) -> bool:
        """Enable the controller for the children of a cgroup; returns whether it is enabled now."""
        if path in self.enabled or self.controller in self._words(path, "cgroup.subtree_control"):
            return True
        try:
            with (self.top / path / "cgroup.subtree_control").open("w") as file:
                file.write(f"+{self.controller}")
        except OSError as error:
            self.failures.append(f"{path or 'the root cgroup'}: {error.strerror}")
            return False
        self.enabled.append(path)
        return True

    def enable_down_to(self, path: str) -> bool:
        """Enable the controller in a cgroup and in all above it, from the root on."""
        parts = path.split("/") if path else []
        return all(self.enable("/".join(parts[:count])) for count in range(len(parts) + 1))

    def _words(self, path: str, name: str) -> list[str]:
        try:
            return (self.top / path / name).read_text().split()
        except OSError:
            return []


def since_lines(before: str, enabled: Iterable[str], monotonic_usec: int, boottime_usec: int) -> Iterator[str]:
    """Lines ``MONOTONIC_USEC BOOTTIME_USEC /CGROUP`` of the file ``since``: former ones, and those of this run.

    Args:
        before: former content of the file.
        enabled: cgroups that were enabled now, without the leading slash; "" is the root.
        monotonic_usec: CLOCK_MONOTONIC in microseconds, by which systemd gives the start of units.
        boottime_usec: CLOCK_BOOTTIME in microseconds, by which /proc gives the start of processes.
    """
    fresh = [f"/{path}" for path in enabled]
    for line in before.splitlines():
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[2] not in fresh:  # a cgroup that was created again is enabled since now
            yield line
    for path in fresh:
        yield f"{monotonic_usec} {boottime_usec} {path}"


def write_since(file: Path, enabled: Sequence[str]) -> None:
    """Add the cgroups that were enabled now to the file ``since``, in one step. Raises OSError."""
    file.parent.mkdir(mode=0o755, exist_ok=True)
    before = file.read_text() if file.exists() else ""
    usec = [time.clock_gettime_ns(clock) // 1000 for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)]
    beside = file.with_suffix(".new")
    beside.write_text("".join(f"{line}\n" for line in since_lines(before, enabled, *usec)))
    beside.chmod(0o644)
    beside.rename(file)


def enable_all(enabler: Enabler, slices: Iterable[str], users: Iterable[int], run: Systemctl) -> None:
    """Enable the controller for system units, for the units in these slices, and for programs of users.

    Args:
        enabler: enables the controller.
        slices: names of slices; those that do not exist yet are started.
        users: user ids.
        run: calls systemctl.
    """
    for name in slices:
        path = slice_path(name)
        if not (enabler.top / path).is_dir():
            run("start", "--", name)
        enabler.enable_down_to(path)
    for path in ENGINE_CGROUPS:
        if (enabler.top / path).is_dir():
            enabler.enable_down_to(path)
    for uid in users:
        for path in user_chain(uid):
            if not enabler.enable_down_to(path):
                break


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``gpumand-dmem``: exits with 1 and says why if the controller could not be enabled everywhere."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    enabler = Enabler(options.controller)
    if not enabler.is_available():
        sys.exit(
            f"The kernel does not offer the cgroup controller {enabler.controller}: it needs Linux 6.14 or newer with "
            "CONFIG_CGROUP_DMEM, and cgroup v2."
        )
    enable_all(enabler, wanted_slices(consumer_tables(configuration_files()), systemctl), options.user, systemctl)
    write_since(SINCE, enabler.enabled)
    for path in enabler.enabled:
        print(f"{enabler.controller} is enabled below /{path}")
    if enabler.failures:
        sys.exit("\n".join(f"{enabler.controller} could not be enabled in {line}" for line in enabler.failures))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpumand-dmem", description="Enables the dmem cgroup controller for the units of gpumand's consumers."
    )
    parser.add_argument(
        "--user",
        metavar="UID",
        type=int,
        action="append",
        default=[],
        help="also for the programs of this user, who must be logged in",
    )
    parser.add_argument("--controller", type=_controller, default=CONTROLLER, help="another cgroup controller")
    return parser.parse_args(arguments)


def _controller(name: str) -> str:
    if not _CONTROLLER.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{name!r} is no name of a controller")
    return name


if __name__ == "__main__":
    main()
