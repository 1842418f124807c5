"""Product names of AMD cards, for display."""

from __future__ import annotations

from gpumand.vram.process import MAX_NAME
from gpumand.vram.sysfs import Card, Root, below, read_text, read_word

IDS_FILE = "/usr/share/libdrm/amdgpu.ids"
MAX_IDS_BYTES = 256 * 1024


def product_name(card: Card, root: Root = "/") -> str:
    """The name of a card, with its partitions if it is split: "AMD Instinct MI300X (CPX, NPS4)"; blocks."""
    own = (read_text(card.path / "product_name", 256) or "").strip()
    name = own or _listed_name(card, root) or f"AMD GPU {card.device or 0:04x}"
    compute = read_word(card.path / "current_compute_partition")
    memory = read_word(card.path / "current_memory_partition")
    split = [mode for mode in (compute, memory) if mode] if compute not in ("", "SPX") else []
    full = f"{name} ({', '.join(split)})" if split else name
    return "".join(char if char.isprintable() else "?" for char in full[:MAX_NAME])


def _listed_name(card: Card, root: Root) -> str:
    """The name in libdrm's list, which is installed with Mesa: lines ``DEVICE, REVISION, NAME``; "" if unknown."""
    revision = read_word(card.path / "revision", 16).removeprefix("0x").upper()
    wanted = f"{card.device or 0:X}"
    for line in (read_text(below(root, IDS_FILE), MAX_IDS_BYTES) or "").splitlines():
        device, _, rest = line.partition(",")
        listed, _, name = rest.partition(",")
        if device.strip().upper() == wanted and listed.strip().upper() == revision:
            return name.strip()
    return ""
