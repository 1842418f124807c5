"""Checks of NVIDIA's driver: kernel module, library, device nodes."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import Driver, Facts
from gpumand.cli.doctor.finding import Finding, problem, warning
from gpumand.cli.doctor.unread import effect_of

LIBRARY = "libnvidia-ml1"
WITHOUT_LIBRARY = ("nvml-library-missing", "driver-unreadable")
FIXES = {
    "driver-not-loaded": "modprobe nvidia",
    "driver-mismatch": "reboot",
}
"""Repair command by the keyword at the start of the driver's error."""

OTHERS_READ_WRITE = 0o006
GROUP_READ_WRITE = 0o060


def library(facts: Facts) -> Iterator[Finding]:
    """NVML works and its version matches the loaded kernel module."""
    driver = facts.driver
    if driver is None:
        return
    if driver.error:
        yield problem(driver.error + _versions(driver), effect_of(driver.error, facts), _fix_of(driver, facts))
    elif driver.kernel_version and driver.library_version not in ("", driver.kernel_version):
        yield warning(
            "the NVML library and the loaded kernel module have different driver versions" + _versions(driver),
            "programs started from now on cannot use the GPU",
            facts.root("reboot"),
        )


def _fix_of(driver: Driver, facts: Facts) -> str:
    keyword = driver.error.partition(":")[0]
    if keyword not in WITHOUT_LIBRARY:
        return facts.root(FIXES.get(keyword, "nvidia-smi"))
    if not driver.kernel_version or not facts.packages.has_apt:
        return facts.install(LIBRARY)
    # The library of another version would replace parts of a driver that works for other programs.
    packages = f"{LIBRARY} libnvidia-compute-{driver.kernel_version.partition('.')[0]}"
    return f"apt-cache policy {packages}   # install the one that has version {driver.kernel_version}"


def _versions(driver: Driver) -> str:
    if not driver.kernel_version and not driver.library_version:
        return ""
    return f" (module {driver.kernel_version or 'not loaded'}, library {driver.library_version or 'unknown'})"


def nodes(facts: Facts) -> Iterator[Finding]:
    """/dev has the driver's device nodes, and the daemon's user may open them."""
    driver = facts.driver
    if driver is None or not driver.kernel_version:
        return
    if not any(node.path == "/dev/nvidiactl" for node in driver.nodes):
        why = "the service may not create device nodes; nvidia-persistenced creates them at every boot"
        fix = facts.root("nvidia-modprobe -c 0 && sudo systemctl enable --now nvidia-persistenced")
        yield problem("the driver is loaded, but /dev/nvidiactl is missing", why, fix)
    for node in driver.nodes:
        if node.mode & OTHERS_READ_WRITE == OTHERS_READ_WRITE:
            continue
        what = f"{node.path} has mode {node.mode:04o} and group {node.group or 'root'}"
        if node.mode & GROUP_READ_WRITE == GROUP_READ_WRITE and node.group not in ("", "root"):
            fix = f"{facts.systemctl('edit gpumand')}   # [Service] SupplementaryGroups={node.group}"
            yield warning(what, "gpumand needs membership in that group to open it", fix)
        else:
            fix = "options nvidia NVreg_DeviceFileMode=0666   # in /etc/modprobe.d/nvidia.conf"
            yield problem(what, "gpumand does not run as root and cannot open it", fix)
