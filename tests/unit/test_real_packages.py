"""Tests of real servers are skipped where their packages are not available, and fail for any other reason."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e import trees
from tests.real import packages
from tests.real.packages import NoPackages, tree_with_servers


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A host on which creating a tree fails with the output in this list."""
    output: list[str] = []

    def tree(_suite: str, _packages: Sequence[str]) -> Path:
        raise RuntimeError("\n".join(output))

    monkeypatch.setattr(packages, "why_no_tree", lambda: "")
    monkeypatch.setattr(packages, "tree", tree)
    return output


def use_mirror(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(packages, "proxy", dict)
    monkeypatch.setattr(packages, "mirror", lambda: address)
    monkeypatch.setenv("no_proxy", "*")


def test_a_host_without_debootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "why_no_tree", lambda: "needs debootstrap (package debootstrap)")
    with pytest.raises(NoPackages, match="needs debootstrap"):
        tree_with_servers(())


def test_a_suite_without_the_packages(failing: list[str]) -> None:
    failing += ["Reading package lists...", "E: Unable to locate package whisper.cpp-tools"]
    with pytest.raises(NoPackages, match=r"^Debian testing: Unable to locate package whisper\.cpp-tools$"):
        tree_with_servers(())


def test_an_archive_that_cannot_be_reached(failing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing.append("E: Failed getting release file")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    use_mirror(monkeypatch, f"http://127.0.0.1:{port}/debian/")
    with pytest.raises(NoPackages, match=r"Debian's archive cannot be reached: .*Connection refused"):
        tree_with_servers(())


def test_any_other_fault_is_no_reason_to_skip(
    failing: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing.append("dpkg: error processing package systemd")
    release = tmp_path / "dists/testing/Release"
    release.parent.mkdir(parents=True)
    release.touch()
    use_mirror(monkeypatch, tmp_path.as_uri())
    with pytest.raises(RuntimeError, match="dpkg: error"):
        tree_with_servers(())


def test_a_tree_that_cannot_be_made_is_not_locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_suite: str, _place: Path, _packages: Sequence[str]) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(trees, "TREES", tmp_path)
    monkeypatch.setattr(trees, "_make", fail)
    with pytest.raises(RuntimeError, match="no network") as failure:
        trees.tree("testing", ())

    (path,) = tmp_path.glob("*.lock")
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the failure still refers to the frame that took the lock
    assert failure.value
