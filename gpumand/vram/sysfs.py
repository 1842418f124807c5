"""Reads numbers, words and graphics cards from sysfs and procfs.

Every function takes the root of the file system, so that tests read a tree of their own. The content of the files is
checked: a file may be empty, cut short or absent, and then its value is unknown. All functions block, and a file of a
driver may hang: call them in a ``CallThread``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
MAX_DIGITS = 19
"""No amount of memory has 20 digits; a longer number is damaged."""

MAX_CARDS = 64
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NUMBER = re.compile(r"[0-9]+")
_RENDER_NODE = re.compile(r"renderD([0-9]{1,6})")

Root = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card with a render node.

    Attributes:
        path: its PCI folder in sysfs.
        bdf: PCI address, ``0000:03:00.0``, the only stable key: card and render numbers change with the probe order.
        driver: name of the kernel driver, such as "amdgpu"; "" if unknown.
        vendor, device: PCI ids; None if unknown.
    """

    path: Path
    bdf: str
    driver: str
    vendor: int | None
    device: int | None


def below(root: Root, path: str) -> Path:
    """An absolute path of the host, below ``root``."""
    return Path(root) / path.lstrip("/")


def read_text(path: Path, most: int = 4096) -> str | None:
    """The first bytes of a file as text; None if it cannot be read.

    Args:
        path: the file.
        most: number of bytes that are read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(most) or b"").decode(errors="replace")
    except OSError:  # the card was removed in between, or its driver does not have the file
        return None


def read_word(path: Path, most: int = 64) -> str:
    """The first word of a file; "" if there is none."""
    return next(iter((read_text(path, most) or "").split()), "")


def read_number(path: Path, most: int = 64) -> int | None:
    """The decimal number that a file consists of; None if it cannot be read or holds anything else."""
    return parse_number((read_text(path, most) or "").strip())


def parse_number(text: str) -> int | None:
    """A decimal number of at most 19 digits; None for anything else."""
    return int(text) if len(text) <= MAX_DIGITS and _NUMBER.fullmatch(text) and text.isascii() else None


def read_pairs(path: Path, separator: str | None = None, most: int = 16384) -> dict[str, str]:
    """The lines ``KEY SEPARATOR VALUE`` of a file; lines without a value are skipped.

    Args:
        path: the file.
        separator: what separates key and value; None = blanks.
        most: number of bytes that are read.
    """
    pairs = (line.split(separator, 1) for line in (read_text(path, most) or "").splitlines())
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def cards(root: Root = "/") -> dict[str, Card]:
    """The graphics cards with a render node, by PCI address in ascending order.

    Render nodes of platform devices, such as the partitions of an MI300X, are not cards.
    """
    found = {card.bdf: card for card in _cards(root)}
    return {bdf: found[bdf] for bdf in sorted(found)[:MAX_CARDS]}


def _cards(root: Root) -> Iterator[Card]:
    folder = below(root, "/sys/class/drm")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        node = _RENDER_NODE.fullmatch(name)
        path = _resolved(root, folder / name / "device") if node else None
        if node and path is not None and PCI_ADDRESS.fullmatch(path.name):
            driver = read_pairs(path / "uevent", "=").get("DRIVER", "")
            ids = (_hexadecimal(path / "vendor"), _hexadecimal(path / "device"))
            yield Card(path, path.name, driver, *ids)


def _resolved(root: Root, link: Path) -> Path | None:
    """The folder that a link leads to; a link to an absolute path is taken as below ``root``."""
    target = Path(os.path.realpath(link))
    inside = target if target.is_relative_to(os.path.realpath(root)) else below(root, str(target))
    return inside if os.path.isdir(inside) else None


def _hexadecimal(path: Path) -> int | None:
    try:
        return int(read_word(path, 16), 16)
    except ValueError:
        return None
