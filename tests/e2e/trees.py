"""Root folders of other Debian and Ubuntu releases to boot machines from: made by debootstrap, kept for a few days.

They lie in ``build/trees``, one folder for each suite and choice of packages. A tree is made under another name and
renamed when it is complete. Every user of a tree holds a shared lock until its process ends, so that no process uses an
incomplete tree or removes one that is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.e2e.container import REPOSITORY

TREES = REPOSITORY / "build" / "trees"
SCRIPT = Path(__file__).with_name("tree.sh")
BOOTABLE = ("systemd-sysv", "dbus", "procps")
UBUNTU = ("noble", "resolute")
UBUNTU_MIRROR = "http://archive.ubuntu.com/ubuntu"
UBUNTU_KEYRING = "usr/share/keyrings/ubuntu-archive-keyring.gpg"
MAX_AGE_SEC = 3 * 86400
_in_use: list[IO[str]] = []  # locks, held while the files are open


def why_no_tree() -> str:
    """Return why no tree can be made here, in one line; "" if one can."""
    return "" if shutil.which("debootstrap") else "needs debootstrap (package debootstrap)"


def tree(suite: str, packages: Sequence[str]) -> Path:
    """Return the root folder of a Debian of this suite; it is made if there is none yet, which takes a minute or two.

    Nothing may be written into it: give it to ``Machine(base=...)``, which adds a layer for changes.

    Args:
        suite: "bookworm", "trixie" ..., or a release of Ubuntu in UBUNTU.
        packages: packages to install in addition to those it needs to boot (systemd, dbus, ps).

    Raises:
        RuntimeError: it could not be made; the message contains the output.
    """
    return _tree(suite, tuple(sorted({*BOOTABLE, *packages})))


@functools.cache
def _tree(suite: str, packages: tuple[str, ...]) -> Path:
    recipe = "\n".join([SCRIPT.read_text(encoding="utf-8"), *packages])
    place = TREES / f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    TREES.mkdir(parents=True, exist_ok=True)
    _remove_old()
    with contextlib.ExitStack() as on_failure:
        lock = on_failure.enter_context(place.with_suffix(".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_SH)  # shared by all processes that use it
        if not place.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():  # otherwise another process has made it meanwhile
                _make(suite, place, packages)
            fcntl.flock(lock, fcntl.LOCK_SH)
        on_failure.pop_all()
        _in_use.append(lock)
    return place


def _make(suite: str, place: Path, packages: Sequence[str]) -> None:
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    private_mounts = ["unshare", "--mount", "--propagation", "private", "--"]
    done = subprocess.run(
        [*private_mounts, SCRIPT, suite, unfinished, *_archive(suite), *packages],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ) | proxy(),
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RuntimeError(f"no tree of {suite} could be made:\n{done.stdout[-4000:]}")
    os.utime(unfinished)
    unfinished.rename(place)


def _archive(suite: str) -> tuple[str, str | Path]:
    """Return the mirror of a release, and the file with its keys; "" = debootstrap knows them."""
    if suite not in UBUNTU:
        return mirror(), ""
    # Debian 13 has a package with the keys of Ubuntu, Debian 12 has none.
    return UBUNTU_MIRROR, tree("trixie", ("ubuntu-keyring",)) / UBUNTU_KEYRING


def _remove_old() -> None:
    """Remove old trees that are not in use."""
    for place in TREES.iterdir():
        if place.suffix:
            continue
        with place.with_suffix(".lock").open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place.exists() and time.time() - place.stat().st_mtime > MAX_AGE_SEC:
                shutil.rmtree(place)


def mirror() -> str:
    """Return the address of the mirror that this host installs Debian from. Raises RuntimeError if apt knows none."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    listed = _said("apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages")
    for line in listed.splitlines():
        origin, suite, *address = line.split()
        if origin == "Debian" and codename and suite == codename[1]:
            return address[0]
    raise RuntimeError("apt knows no mirror of Debian; this may help: apt-get update")


def proxy() -> dict[str, str]:
    """Return the environment variable for apt's proxy, which debootstrap does not read, or {} if there is no proxy."""
    address = _said("apt-config", "--format", "%v", "dump", "Acquire::http::Proxy").strip()
    return {"http_proxy": address} if address else {}


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
