"""Reads announcement files of simulated consumers, which are untrusted input.

A file is named after the pid of the process that wrote it. It contains an integer (MiB on device 0), a JSON object
``{"mib": 13312, "device": 0, "consumer": "comfyui", "name": "comfyui"}``, or a list of such objects.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpumand.vram.process import is_dead, short_name, started_after

log = logging.getLogger(__name__)

MAX_BYTES = 4096
MAX_FILES = 4096
MAX_MIB = 1 << 24
"""16 TiB, more than any device has; a larger number is refused."""

MAX_CONSUMER = 128
PID_NAME = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AnnouncedUse:
    """Memory that one process holds on one device, as announced."""

    pid: int
    device: int
    mib: int
    consumer: str = ""
    name: str = ""


class InvalidAnnouncement(Exception):
    """The content of an announcement file is invalid; the message is one line."""


class AnnouncementReader:
    """Reads a directory of announcements; logs an invalid file once."""

    def __init__(self, directory: Path, device_count: int) -> None:
        """Set the directory and the number of devices."""
        self._directory = directory
        self._device_count = device_count
        self._warned: set[str] = set()

    def read(self) -> tuple[tuple[AnnouncedUse, ...], bool]:
        """Read the announcements of living processes.

        Returns:
            The announcements, and whether they are complete (False if there are too many files).

        Raises:
            OSError: the directory cannot be read.
        """
        # Files are opened relative to this descriptor, so that all are from the same directory even if it is replaced.
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names, complete = _names(directory)
            self._warned &= set(names)
            found = [entry for name in names for entry in self._read_file(directory, name)]
        finally:
            os.close(directory)
        if not complete:
            self._warn_once("", f"contains more than {MAX_FILES} files; the rest is ignored")
        return tuple(found), complete

    def _read_file(self, directory: int, name: str) -> tuple[AnnouncedUse, ...]:
        pid = int(name)
        try:
            content, written_at = _read_capped(directory, name)
            if is_dead(pid) or started_after(pid, written_at):
                return ()  # the process that wrote the file has ended; its pid may have been reused
            return parse(pid, content, self._device_count)
        except FileNotFoundError:
            return ()  # removed since the directory was listed
        except (OSError, InvalidAnnouncement) as error:
            self._warn_once(name, str(error))
            return ()

    def _warn_once(self, name: str, why: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning("simulator: %s: %s", self._directory / name, why)


def parse(pid: int, content: bytes, device_count: int) -> tuple[AnnouncedUse, ...]:
    """Parse one file; several entries for one device are added up. Raises InvalidAnnouncement."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidAnnouncement(f"is neither an integer nor JSON ({type(error).__name__})") from error
    by_device: dict[int, AnnouncedUse] = {}
    for item in value if isinstance(value, list) else [value]:
        entry = _entry(pid, item, device_count)
        before = by_device.get(entry.device)
        by_device[entry.device] = replace(before, mib=before.mib + entry.mib) if before else entry
    return tuple(by_device.values())


def _entry(pid: int, item: Any, device_count: int) -> AnnouncedUse:
    fields = item if isinstance(item, dict) else {"mib": item}
    unknown = fields.keys() - {"mib", "device", "consumer", "name"}
    if unknown:
        raise InvalidAnnouncement(f"unknown key {min(unknown)[:64]!r}")
    device = _integer(fields.get("device", 0), "device", device_count - 1)
    mib = _integer(fields.get("mib"), "mib", MAX_MIB)
    consumer = _text(fields.get("consumer", ""), "consumer")
    return AnnouncedUse(pid, device, mib, consumer, short_name(_text(fields.get("name", ""), "name")))


def _integer(value: Any, key: str, largest: int) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise InvalidAnnouncement(f"{key} must be an integer from 0 to {largest}")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_CONSUMER or not value.isprintable():
        raise InvalidAnnouncement(f"{key} must be a printable string of at most {MAX_CONSUMER} characters")
    return value


def _names(directory: int) -> tuple[list[str], bool]:
    """Return the file names that are pids, sorted, and whether the directory was read to its end."""
    names: list[str] = []
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count == MAX_FILES:
                return sorted(names), False
            if PID_NAME.fullmatch(entry.name):
                names.append(entry.name)
    return sorted(names), True


def _read_capped(directory: int, name: str) -> tuple[bytes, float]:
    """Return the content of a regular file and its modification time in CLOCK_REALTIME seconds."""
    # Without O_NONBLOCK, opening a FIFO would block until another process opens it for writing. O_NOFOLLOW refuses
    # symbolic links, which could lead out of the directory.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidAnnouncement("not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidAnnouncement(f"is larger than {MAX_BYTES} bytes, the maximum")
    return content, status.st_mtime
