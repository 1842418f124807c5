"""A Debian tree with real servers: Debian's own packages of llama.cpp and whisper.cpp.

Debian 12 and 13 do not have these packages, so the tree is of Debian testing. It is created once and cached for a few
days in ``build/trees``, like the other trees of the e2e tests.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.trees import mirror, proxy, tree, why_no_tree

SUITE = "testing"  # a name that every debootstrap knows
SERVERS = ("llama.cpp-tools", "llama.cpp-services", "whisper.cpp-tools")
NOT_AVAILABLE = re.compile(
    r"^E: (Unable to locate package .*|Package '.*' has no installation candidate)$", re.MULTILINE
)
REACHABLE_SEC = 10


class NoPackages(Exception):
    """The packages are not available on this host; the message gives the reason in one line."""


def tree_with_servers(others: Sequence[str]) -> Path:
    """Return the root folder of a Debian that has the servers and the ``others``, package names.

    Raises:
        NoPackages: this host cannot download them.
        RuntimeError: the packages are available, but creating the tree failed.
    """
    if why_no_tree():
        raise NoPackages(why_no_tree())
    try:
        return tree(SUITE, (*SERVERS, *others))
    except RuntimeError as error:
        if missing := NOT_AVAILABLE.search(str(error)):
            raise NoPackages(f"Debian {SUITE}: {missing[1]}") from error
        if reason := _why_unreachable():
            raise NoPackages(reason) from error
        raise


def _why_unreachable() -> str:
    """Return why Debian's archive cannot be reached from here, in one line, or ""."""
    address = proxy().get("http_proxy")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": address} if address else None))
    try:
        with opener.open(f"{mirror().rstrip('/')}/dists/{SUITE}/Release", timeout=REACHABLE_SEC):
            return ""
    except (RuntimeError, OSError) as error:
        return f"Debian's archive cannot be reached: {error}"
