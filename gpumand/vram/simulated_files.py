"""Announcements: files that any program may have written anything into.

A file is named after the pid of the process that wrote it and holds MiB on device 0 as a bare integer, or a JSON
object ``{"mib": 13312, "device": 0, "consumer": "comfyui", "name": "comfyui"}``, or a list of such objects.
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
"""16 TiB: more than any device has; larger figures are mistakes."""

MAX_CONSUMER = 128
PID_NAME = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Announced:
    """What one process holds on one device."""

    pid: int
    device: int
    mib: int
    consumer: str = ""
    name: str = ""


class BadAnnouncement(Exception):
    """A file that says nothing usable; the message is one line."""


class AnnouncementReader:
    """Reads a directory of announcements; remembers what it has complained about."""

    def __init__(self, directory: Path, device_count: int) -> None:
        """Take the directory and how many devices there are."""
        self._directory = directory
        self._device_count = device_count
        self._complained: set[str] = set()

    def read(self) -> tuple[tuple[Announced, ...], bool]:
        """What living processes announce, and whether that is all (False: too many files). Raises OSError."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names, complete = _names(directory)
            self._complained &= set(names)
            found = [entry for name in names for entry in self._read_file(directory, name)]
        finally:
            os.close(directory)
        if not complete:
            self._complain("", f"more than {MAX_FILES} files: the rest is not read")
        return tuple(found), complete

    def _read_file(self, directory: int, name: str) -> tuple[Announced, ...]:
        pid = int(name)
        try:
            content, written_at = _content(directory, name)
            if is_dead(pid) or started_after(pid, written_at):
                return ()  # the process that wrote it is gone, even where its pid is in use again
            return parse(pid, content, self._device_count)
        except FileNotFoundError:
            return ()  # cleared since the directory was listed
        except (OSError, BadAnnouncement) as error:
            self._complain(name, str(error))
            return ()

    def _complain(self, name: str, why: str) -> None:
        if name not in self._complained:
            self._complained.add(name)
            log.warning("simulator: %s: %s", self._directory / name, why)


def parse(pid: int, content: bytes, device_count: int) -> tuple[Announced, ...]:
    """Understand one file; several figures for one device are added up. Raises BadAnnouncement."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadAnnouncement(f"neither an integer nor JSON ({type(error).__name__})") from error
    by_device: dict[int, Announced] = {}
    for item in value if isinstance(value, list) else [value]:
        entry = _entry(pid, item, device_count)
        before = by_device.get(entry.device)
        by_device[entry.device] = replace(before, mib=before.mib + entry.mib) if before else entry
    return tuple(by_device.values())


def _entry(pid: int, item: Any, device_count: int) -> Announced:
    fields = item if isinstance(item, dict) else {"mib": item}
    unknown = fields.keys() - {"mib", "device", "consumer", "name"}
    if unknown:
        raise BadAnnouncement(f"unknown key {min(unknown)[:64]!r}")
    device = _integer(fields.get("device", 0), "device", device_count - 1)
    mib = _integer(fields.get("mib"), "mib", MAX_MIB)
    consumer = _text(fields.get("consumer", ""), "consumer")
    return Announced(pid, device, mib, consumer, short_name(_text(fields.get("name", ""), "name")))


def _integer(value: Any, key: str, largest: int) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise BadAnnouncement(f"{key} is no integer between 0 and {largest}")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_CONSUMER or not value.isprintable():
        raise BadAnnouncement(f"{key} is no printable text of at most {MAX_CONSUMER} characters")
    return value


def _names(directory: int) -> tuple[list[str], bool]:
    """The names that are pids, in order, and whether the directory was read to its end."""
    names: list[str] = []
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count == MAX_FILES:
                return sorted(names), False
            if PID_NAME.fullmatch(entry.name):
                names.append(entry.name)
    return sorted(names), True


def _content(directory: int, name: str) -> tuple[bytes, float]:
    """What a regular file holds and when it was written, in CLOCK_REALTIME seconds.

    O_NONBLOCK because opening a FIFO would wait for a writer.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadAnnouncement("no regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise BadAnnouncement(f"larger than {MAX_BYTES} bytes")
    return content, status.st_mtime
