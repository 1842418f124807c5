"""Finds out whether gpumand runs in a PID namespace of its own, as in LXC, Docker, systemd-nspawn and WSL.

Drivers number processes as the host does. In another namespace such a number belongs to no process, or by chance to one
that has nothing to do with the GPU, so that nothing may be attributed by it.
"""

from __future__ import annotations

import os

from gpumand.vram.sysfs import Root, below

LINK = "/proc/self/ns/pid"
INITIAL = "pid:[4026531836]"
"""Target of the link in the host's own namespace: PROC_PID_INIT_INO, 0xEFFFFFFC, in include/linux/proc_ns.h."""

LINK_VARIABLE = "GPUMAND_PID_NAMESPACE"
"""Environment variable with the path of a link to read instead, for tests."""


def is_initial(root: Root = "/") -> bool:
    """Whether this process has the pids of the host. A kernel without PID namespaces has no link; blocks briefly."""
    try:
        return os.readlink(os.environ.get(LINK_VARIABLE) or below(root, LINK)) == INITIAL
    except FileNotFoundError:
        return True
    except OSError:  # the namespace is unknown, and numbers of the driver are used only in the host's own
        return False


def exists(pid: int) -> bool:
    """Whether this namespace has a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
