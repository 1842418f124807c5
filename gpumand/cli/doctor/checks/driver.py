"""NVIDIA's driver: module, library, device nodes."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import Driver, Facts
from gpumand.cli.doctor.finding import Finding, problem, warning

MENDS = {
    "nvml-module-missing": "apt-get install python3-pynvml",
    "nvml-library-missing": "apt-get install libnvidia-ml1",
    "driver-not-loaded": "modprobe nvidia",
    "driver-mismatch": "reboot",
}
"""By the word with which NVML's error begins."""

OTHERS_READ_WRITE = 0o006
GROUP_READ_WRITE = 0o060


def library(facts: Facts) -> Iterator[Finding]:
    """NVML can be used, and is of the loaded module's version."""
    driver = facts.driver
    if driver is None:
        return
    if driver.error:
        word = driver.error.partition(":")[0]
        mend = MENDS.get(word, "nvidia-smi")
        yield problem(driver.error + _versions(driver), "without figures gpumand goes by footprints", facts.root(mend))
    elif driver.kernel_version and driver.library_version not in ("", driver.kernel_version):
        yield warning(
            "the NVML library and the loaded kernel module are of different driver versions" + _versions(driver),
            "programs that start from now on cannot use the GPU",
            facts.root("reboot"),
        )


def _versions(driver: Driver) -> str:
    if not driver.kernel_version and not driver.library_version:
        return ""
    return f" (module {driver.kernel_version or 'not loaded'}, library {driver.library_version or 'unknown'})"


def nodes(facts: Facts) -> Iterator[Finding]:
    """/dev has the driver's nodes, and the daemon's user may open them."""
    driver = facts.driver
    if driver is None or not driver.kernel_version:
        return
    if not any(node.path == "/dev/nvidiactl" for node in driver.nodes):
        why = "the service may not make them itself; nvidia-persistenced makes them at every boot"
        mend = facts.root("nvidia-modprobe -c 0 && sudo systemctl enable --now nvidia-persistenced")
        yield problem("the driver is loaded, and /dev/nvidiactl is missing", why, mend)
    for node in driver.nodes:
        if node.mode & OTHERS_READ_WRITE == OTHERS_READ_WRITE:
            continue
        what = f"{node.path} has mode {node.mode:04o} and belongs to the group {node.group or 'root'}"
        if node.mode & GROUP_READ_WRITE == GROUP_READ_WRITE and node.group not in ("", "root"):
            mend = f"{facts.systemctl('edit gpumand')}   # [Service] SupplementaryGroups={node.group}"
            yield warning(what, "gpumand can open it only as a member of that group", mend)
        else:
            mend = "options nvidia NVreg_DeviceFileMode=0666   # in /etc/modprobe.d/nvidia.conf"
            yield problem(what, "gpumand, which does not run as root, cannot open it", mend)
