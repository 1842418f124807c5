"""Reads the doctor's facts from the host: files, groups, the driver. Blocking code, except for NVML."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gpumand.cli.doctor.facts import DAEMON_USER, GROUP, Caller, Configuration, Driver, Node
from gpumand.config import DEFAULT_FILE, DEFAULT_FOLDER, ConfigProblems, load, user_folder
from gpumand.config.files import DROP_IN_NAME, MAIN_NAME, config_files, list_toml_files
from gpumand.config.problems import ConfigProblem, ProblemList

PACKAGED = (
    "/usr/share/polkit-1/actions/org.gpumand1.policy",
    "/usr/share/polkit-1/rules.d/org.gpumand1.rules",
    "/usr/share/polkit-1/rules.d/org.gpumand1-units.rules",
    "/usr/libexec/gpumand-unit-allowed",
)
"""Files of the package that polkit needs."""

SETUP_FOLDERS = {
    "/usr/share/polkit-1/actions": ("/usr/local/share/polkit-1/actions",),
    "/usr/share/polkit-1/rules.d": ("/etc/polkit-1/rules.d",),
    "/usr/libexec": ("/usr/local/libexec",),
}
"""Folder of the package -> where ``gpumanctl setup`` writes its files instead."""

CONFIG_FLAG = "--config"

NOT_ALLOWED = "Permission denied"
"""strerror of EACCES, which marks a ConfigProblem about a file that the caller may not read."""

MODULE_VERSION = Path("/proc/driver/nvidia/version")
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
LIBRARY = "libnvidia-ml.so.1"
_VERSION = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")


def caller() -> Caller:
    """The user that runs this process, and its relation to the group gpumand."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    try:
        entry = grp.getgrnam(GROUP)
    except KeyError:
        return Caller(uid, name)
    return Caller(
        uid,
        name,
        is_member=entry.gr_gid in {os.getegid(), *os.getgroups()},
        is_listed=name in entry.gr_mem,
        group_exists=True,
    )


def daemon_uid() -> int | None:
    """Uid of the user that the service runs as; None when there is no such user."""
    try:
        return pwd.getpwnam(DAEMON_USER).pw_uid
    except KeyError:
        return None


def missing_files(paths: Iterable[str] = PACKAGED) -> tuple[str, ...]:
    """The missing files among ``paths``; files in a folder that the caller may not search count as present."""
    return tuple(path for path in paths if not any(map(_may_exist, _places(path))))


def _places(path: str) -> list[str]:
    folder, name = os.path.split(path)
    return [path, *(f"{other}/{name}" for other in SETUP_FOLDERS.get(folder, ()))]


def _may_exist(path: str) -> bool:
    folder = os.path.dirname(path)
    return os.path.exists(path) or (os.path.isdir(folder) and not os.access(folder, os.X_OK))


def configuration(path: Path | None, *, user: bool) -> Configuration:
    """Read the configuration files.

    Args:
        path: the daemon's ``--config``; None for the default location.
        user: without a path, read the files of the user's gpumand.
    """
    files = [file for file in _files(path, user=user) if file.exists()]
    changed_usec, changed_file = max(((_changed_usec(file), str(file)) for file in files), default=(0, ""))
    try:
        settings = load(path, user=user)
    except ConfigProblems as error:
        denied = [one for one in error.problems if NOT_ALLOWED in one.message]
        mistakes = tuple(one for one in error.problems if one not in denied)
        return Configuration(tuple(files), changed_usec, changed_file, None, mistakes, _names(denied))
    return Configuration(tuple(files), changed_usec, changed_file, settings)


def daemon_config_path(pid: int, proc: Path = Path("/proc")) -> Path | None:
    """The absolute path in the ``--config`` of a running daemon; None when it has none.

    Raises:
        OSError: the caller may not read the process.
    """
    words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, is_joined, value = word.partition("=")
        if name == CONFIG_FLAG:
            path = Path(value if is_joined else following)
            # A relative path starts at the working directory of the daemon, not of this process.
            return path if path.is_absolute() else (proc / str(pid) / "cwd").resolve(strict=True) / path
    return None


def _names(problems: Iterable[ConfigProblem]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.file for one in problems))


def _files(path: Path | None, *, user: bool) -> list[Path]:
    """All files that the configuration consists of; they need not exist."""
    problems = ProblemList()
    if path is not None:
        return config_files(path, problems)
    main, drop_ins = DEFAULT_FILE, DEFAULT_FOLDER
    if user:
        main, drop_ins = user_folder() / MAIN_NAME, user_folder() / DROP_IN_NAME
    return [main, *list_toml_files(drop_ins, problems, optional=True)]


def _changed_usec(file: Path) -> int:
    """When the file was modified, in microseconds; 0 when it cannot be read."""
    try:
        found = file.stat()
    except OSError:
        return 0
    return found.st_mtime_ns // 1000


async def driver(*, is_released: bool = False) -> Driver:
    """Query NVML, and read versions and device nodes of the driver.

    NVML is not opened while a card sleeps, which would wake it, nor while an administrator needs the driver closed.
    The versions and device nodes are files.

    Args:
        is_released: the driver is released by ``gpumanctl gpu release``.
    """
    from gpumand.vram.detection import host_root
    from gpumand.vram.pci_power import NVIDIA, read_power
    from gpumand.vram.sysfs import below

    power = await asyncio.to_thread(read_power, below(host_root(), NVIDIA))
    error, devices = ("", 0) if is_released or power.is_asleep else await _query_nvml()
    return Driver(error, devices, kernel_version(), library_version(), nodes())


async def _query_nvml() -> tuple[str, int]:
    """Why NVML does not work, "" when it does, and the number of its GPUs."""
    from gpumand.domain.gpu_settings import GpuSettings
    from gpumand.host.clock import SystemClock
    from gpumand.vram import make_source

    source = make_source(GpuSettings(source="nvml"), SystemClock())
    try:
        reading = await source.read()
    finally:
        await source.close()
    return reading.error, len(reading.devices)


def kernel_version(path: Path = MODULE_VERSION) -> str:
    """Version of the loaded NVIDIA kernel module; "" when none is loaded."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    found = _VERSION.search(lines[0]) if lines else None
    return found[1] if found else ""


def library_version(folders: Iterable[str] = LIBRARY_FOLDERS) -> str:
    """Version of the installed NVML library, from the file name that its link points to; "" when unknown."""
    for folder in folders:
        path = os.path.join(folder, LIBRARY)
        if os.path.exists(path):
            found = _VERSION.search(os.path.basename(os.path.realpath(path)).partition(".so.")[2])
            return found[1] if found else ""
    return ""


def nodes(folder: Path = Path("/dev")) -> tuple[Node, ...]:
    """The device nodes nvidiactl, nvidia0, nvidia1 …"""
    found = []
    for name in sorted(os.listdir(folder)):
        if re.fullmatch(r"nvidia(ctl|\d+)", name):
            with suppress(OSError):
                entry = (folder / name).stat()
                found.append(Node(f"{folder}/{name}", stat.S_IMODE(entry.st_mode), _group_name(entry.st_gid)))
    return tuple(found)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
