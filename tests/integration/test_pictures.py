"""The pictures of the README are drawn by the programs that they show."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.gateway.browser import needs_browser

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@needs_browser
@pytest.mark.timeout(180)
def test_picture_of_the_web_page_is_taken_from_the_running_page(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    command = [sys.executable, str(ROOT / "scripts/page_screenshot.py"), str(picture), "--history", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert (done.returncode, done.stdout) == (0, f"{picture}\n"), done.stderr
    assert size_of(picture) == size_of(ROOT / "docs/gateway.png")


def size_of(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG picture."""
    data = picture.read_bytes()
    assert data.startswith(PNG)
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)
