"""The figures of docs/reliability.md: written between their marks, and reckoned right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, PAGE = ROOT / "scripts" / "reliability.py", ROOT / "docs" / "reliability.md"


def blow(name: str, gap_sec: float, **changes: Any) -> dict[str, Any]:
    one = {"blow": name, "moment": "a load", "kills": 1, "was_called": True, "blow_sec": gap_sec, "gap_sec": gap_sec}
    return one | {"ready_sec": 0.5, "living": 6, "kept": 6, "dead": 1, "left": 0, "told": 2, "served": 3} | changes


def written(tmp_path: Path, rounds: list[dict[str, Any]], page: str) -> subprocess.CompletedProcess[str]:
    figures, copy = tmp_path / "figures.json", tmp_path / "page.md"
    figures.write_text(json.dumps({"seed": 5, "cores": 2, "load": 1.04, "exposure": "1.4", "rounds": rounds}))
    copy.write_text(page, encoding="utf-8")
    return subprocess.run([sys.executable, SCRIPT, figures, copy], capture_output=True, text=True, check=False)


def test_figures_are_written_between_the_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    rounds = [blow("kill -9", float(number)) for number in range(1, 21)] + [
        blow("watchdog", 3.0, kills=2, kept=5, moment="idle")
    ]
    assert written(tmp_path, rounds, page).returncode == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    head, tail = page.partition("<!-- figures")[0], page.rpartition("end of figures -->")[2]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert "Measured on 2 cores with a load average of 1.0; seed 5." in text
    assert "| kills survived | 22 of 22 |" in text
    assert "| of them in the middle of a start | 1 |" in text
    assert "whose owner lived | 125 of 126 |" in text
    assert "| kill -9 | 20 | 0 |" in text
    assert "| kill -9 | 10.50 | 19.00 | 20.00 | 0.50 | 0.50 | 0.50 |" in text
    assert "| watchdog | 3.00 | 3.00 | 3.00 |" in text


def test_writing_twice_is_writing_once(tmp_path: Path) -> None:
    written(tmp_path, [blow("kill -9", 0.5)], PAGE.read_text(encoding="utf-8"))
    once = (tmp_path / "page.md").read_text(encoding="utf-8")
    written(tmp_path, [blow("kill -9", 0.5)], once)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == once


def test_without_figures_the_page_stays_and_the_script_says_how_to_get_them(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "none.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make reliability" in done.stderr
