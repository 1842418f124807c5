"""scripts/reliability.py writes correct measurements between the markers of docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, PAGE = ROOT / "scripts" / "reliability.py", ROOT / "docs" / "reliability.md"


def a_round(method: str, gap_sec: float, **changes: Any) -> dict[str, Any]:
    one = {
        "method": method,
        "situation": "a load",
        "kills": 1,
        "was_called": True,
        "kill_to_answer_sec": gap_sec,
        "gap_sec": gap_sec,
    }
    return one | {"ready_sec": 0.5, "living": 6, "kept": 6, "dead": 1, "left": 0, "refused": 2, "served": 3} | changes


def run_script(tmp_path: Path, rounds: list[dict[str, Any]], page: str) -> subprocess.CompletedProcess[str]:
    measurements, copy = tmp_path / "measurements.json", tmp_path / "page.md"
    measurements.write_text(json.dumps({"seed": 5, "cores": 2, "load": 1.04, "exposure": "1.4", "rounds": rounds}))
    copy.write_text(page, encoding="utf-8")
    return subprocess.run([sys.executable, SCRIPT, measurements, copy], capture_output=True, text=True, check=False)


def test_only_the_text_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    rounds = [a_round("kill -9", float(number)) for number in range(1, 21)] + [
        a_round("watchdog", 3.0, kills=2, kept=5, situation="idle")
    ]
    assert run_script(tmp_path, rounds, page).returncode == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    head, tail = page.partition("<!-- measurements")[0], page.rpartition("end of measurements -->")[2]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert "Measured on 2 cores with a load average of 1.0; seed 5." in text
    assert "| kills survived | 22 of 22 |" in text
    assert "| of these, kills during a start | 1 |" in text
    assert "survived under the same id | 125 of 126 |" in text
    assert "| kill -9 | 20 | 0 |" in text
    assert "| kill -9 | 10.50 | 19.00 | 20.00 | 0.50 | 0.50 | 0.50 |" in text
    assert "| watchdog | 3.00 | 3.00 | 3.00 |" in text


def test_writing_the_same_measurements_twice_changes_nothing(tmp_path: Path) -> None:
    run_script(tmp_path, [a_round("kill -9", 0.5)], PAGE.read_text(encoding="utf-8"))
    once = (tmp_path / "page.md").read_text(encoding="utf-8")
    run_script(tmp_path, [a_round("kill -9", 0.5)], once)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == once


def test_missing_measurements_name_the_command_that_creates_them(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "none.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make reliability" in done.stderr
