"""Hosts that systemd has not booted, and the advice for each kind of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.host_setup.init_system import no_systemd


def host(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"proc__sys__kernel__osrelease": "5.15.90.1-microsoft-standard-WSL2\n"}, "In WSL, write the lines [boot]"),
        ({".dockerenv": ""}, "In a container, install gpumand on the host; clients"),
        ({"run__.containerenv": ""}, "In a container, install gpumand on the host; clients"),
        ({}, "Install gpumand on a host that systemd has booted"),
    ],
)
def test_a_host_without_systemd_gets_advice_that_works_there(files: dict[str, str], words: str, tmp_path: Path) -> None:
    found = no_systemd(host(tmp_path, **files, proc__1__comm="sh\n"))
    assert str(found).startswith("systemd does not run here (process 1 is sh), and gpumand is a service of systemd. ")
    assert words in str(found)


def test_a_booted_host_and_one_without_proc(tmp_path: Path) -> None:
    assert "(process 1" not in str(no_systemd(tmp_path))
    assert no_systemd(host(tmp_path, run__systemd__system__unit="")) is None
