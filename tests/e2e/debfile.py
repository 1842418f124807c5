"""The Debian package of this checkout: built again when any of its source files has changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.e2e.container import REPOSITORY

BUILD_SCRIPT = REPOSITORY / "scripts" / "build-deb"
PLACE = REPOSITORY / "build" / "deb-for-e2e"
NOT_IN_IT = ("tests/", "benchmarks/", ".ci/")


def built(into: Path, package: str = "gpumand") -> Path:
    """Copy the .deb of a package into a folder. Raises RuntimeError with the output of the build if it fails."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with PLACE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other test runs build too, and remove what was built
        folder = PLACE / fingerprint()
        if not folder.exists():
            _build(folder)
        (deb,) = folder.glob(f"{package}_*.deb")
        return Path(shutil.copy(deb, into))


def dependencies(deb: Path) -> list[str]:
    """Return the packages that it depends on, without versions; the first of alternatives."""
    said = subprocess.run(["dpkg-deb", "--field", deb, "Depends"], capture_output=True, text=True, check=True).stdout
    return [re.split(r"[\s:|(]", part.strip(), maxsplit=1)[0] for part in said.split(",")]


def fingerprint() -> str:
    """Return a hash of all source files of a build, including uncommitted changes."""
    hashed = hashlib.sha256()
    for name in sorted(_files()):
        path = REPOSITORY / name
        if not name.startswith(NOT_IN_IT) and path.is_file():
            hashed.update(f"{name}\0{path.stat().st_mode & 0o111}\0".encode())
            hashed.update(hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()[:16]


def _files() -> list[str]:
    """Return all files that git tracks or would add; without git, all but generated files."""
    if (REPOSITORY / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
        return [os.fsdecode(name) for name in listed.split(b"\0") if name]
    tops = [
        top for top in REPOSITORY.iterdir() if not top.name.startswith((".", "build")) and top.suffix != ".egg-info"
    ]
    found = [path for top in tops for path in (top, *top.rglob("*")) if "__pycache__" not in path.parts]
    return [str(path.relative_to(REPOSITORY)) for path in found]


def _build(folder: Path) -> None:
    """Build in a temporary folder, rename it when the build is complete, and remove earlier builds."""
    shutil.rmtree(PLACE)
    unfinished = PLACE / "unfinished"
    command = [BUILD_SCRIPT, unfinished]
    environ = os.environ | {"DEB_BUILD_PROFILES": "pkg.gpumand.nohtml"}  # only test_package.py builds the HTML
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the package could not be built:\n{done.stderr[-8000:]}")
    unfinished.rename(folder)
