"""The cgroup folders of hosts with the dmem controller, as added to the fake hosts of ``gpumand.testing.host_tree``."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.testing.host_tree import ARC_B580, HostTree, rx7900xtx, strix_halo

RADEON = "drm/0000:03:00.0/vram"
HALO = "drm/0000:c6:00.0/vram"
ARC = "drm/0000:03:00.0/vram0"
NVIDIA = "nvidia/00000000:01:00.0/vidmem"
IGPU = "drm/0000:0c:00.0/vram"
USER = "user.slice/user-1000.slice/user@1000.service"
MIB = 1 << 20


class Dmem:
    """Writes dmem files of one host."""

    def __init__(self, tree: HostTree) -> None:
        self.tree = tree

    def capacity(self, sizes: Mapping[str, int | str]) -> None:
        self.write("dmem.capacity", sizes)

    def current(self, cgroup: str, amounts: Mapping[str, int | str]) -> None:
        """Set the amounts of a cgroup; "" is the root."""
        self.write(f"{cgroup}/dmem.current", amounts)

    def without_file(self, cgroup: str) -> None:
        """A cgroup in whose parent the controller is not enabled."""
        self.tree.path(f"/sys/fs/cgroup/{cgroup}").mkdir(parents=True, exist_ok=True)
        self.tree.path(f"/sys/fs/cgroup/{cgroup}/dmem.current").unlink(missing_ok=True)

    def write(self, path: str, amounts: Mapping[str, int | str]) -> None:
        self.tree.write(f"/sys/fs/cgroup/{path}", "".join(f"{region} {held}\n" for region, held in amounts.items()))

    def process(self, pid: int, cgroup: str, began_sec: float) -> None:
        """A process in a cgroup that began at this time since boot."""
        self.tree.write(f"/sys/fs/cgroup/{cgroup}/cgroup.procs", f"{pid}\n")
        fields = ["S", *["0"] * 18, str(int(began_sec * 100)), "0"]
        self.tree.write(f"/proc/{pid}/stat", f"{pid} (a (strange) name) {' '.join(fields)}\n")

    def enabled_at(self, seconds: float) -> None:
        self.tree.write("/run/gpumand-dmem/since", f"{int(seconds * 1e6)} {int(seconds * 1e6)}\n")


def rx7900xtx_dmem(tree: HostTree) -> Dmem:
    rx7900xtx(tree)
    dmem = Dmem(tree)
    dmem.capacity({RADEON: 25753026560})
    dmem.current("", {RADEON: 15502147584})
    dmem.current("system.slice", {RADEON: 13851688960})
    dmem.current("system.slice/ollama.service", {RADEON: 13851688960})
    dmem.current("system.slice/ssh.service", {RADEON: 0})
    for folder in ("user.slice", "user.slice/user-1000.slice", USER):
        dmem.current(folder, {RADEON: 1478492160})
    return dmem


def strix_halo_dmem(tree: HostTree) -> Dmem:
    strix_halo(tree)
    dmem = Dmem(tree)
    dmem.capacity({HALO: 536870912})
    dmem.current("", {HALO: 507244544})
    for folder in ("system.slice", "system.slice/system-llama.slice"):
        dmem.current(folder, {HALO: 6 * MIB})
    dmem.without_file("system.slice/system-llama.slice/llama@qwen.service")
    return dmem


def b580_dmem(tree: HostTree) -> Dmem:
    tree.add_card(ARC_B580)
    dmem = Dmem(tree)
    dmem.capacity({ARC: 12809404416})
    dmem.current("", {ARC: 9261023232})
    dmem.current("system.slice", {ARC: 7775191040 + 1263534080})
    dmem.current("system.slice/llama-sycl.service", {ARC: 7775191040})
    dmem.current("system.slice/whisper.service", {ARC: 1263534080})
    return dmem


def mixed_dmem(tree: HostTree) -> Dmem:
    dmem = Dmem(tree)
    dmem.capacity({IGPU: 536870912, NVIDIA: 25757220864})
    dmem.current("", {IGPU: 41943040, NVIDIA: 9437184000 + 300 * MIB})
    dmem.current("system.slice", {IGPU: 0, NVIDIA: 9437184000})
    dmem.current("system.slice/comfyui.service", {IGPU: 0, NVIDIA: 9437184000})
    return dmem
