"""Locates a process by its cgroup path: the container, the unit and the slices that it runs in.

The layouts are those that the engines create, seen from the host. ID is 64 hex digits:

* Docker, systemd driver ``/system.slice/docker-ID.scope``, cgroupfs driver ``/docker/ID``, ``--cgroup-parent``
  ``/llm.slice/docker-ID.scope``, rootless ``/user.slice/…/user@1000.service/user.slice/docker-ID.scope``.
* Podman ``/machine.slice/libpod-ID.scope/container`` (crun adds ``container``), pods
  ``/machine.slice/machine-libpod_pod_ID.slice/libpod-ID.scope``, cgroupfs ``/libpod_parent/libpod-ID``, quadlet and
  ``--cgroups=split`` ``/system.slice/NAME.service/libpod-payload-ID``, rootless below ``user@1000.service``.
* Kubernetes ``…-podUID.slice/cri-containerd-ID.scope`` or ``crio-ID.scope``, cgroupfs ``/kubepods/…/podUID/ID``,
  containerd without its systemd driver ``…-podUID.slice:cri-containerd:ID``; nerdctl ``nerdctl-ID.scope``.
* systemd-nspawn ``/machine.slice/systemd-nspawn@NAME.service`` or ``machine-NAME.scope``, LXC ``/lxc.payload.NAME``,
  ``/lxc.payload/NAME`` and ``/lxc/NAME`` (Proxmox ``/lxc/101/ns``).

Containers and users may create cgroups of any name within their own, so only the outermost container of a path counts,
and paths of users are marked with their user.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpumand.domain.cgroup_glob import MAX_PATH

_ID = re.compile(r"(?:(?P<prefix>[A-Za-z0-9_.@:\\-]{1,200})[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_MACHINE = re.compile(r"(?:machine-(?P<scope>.+)\.scope|systemd-nspawn@(?P<service>.+)\.service)")
_LIBVIRT = re.compile(r"(?:lxc|qemu)-[0-9]+-")
_USER_MANAGER = re.compile(r"user@([0-9]{1,10})\.service")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
MAX_NAME = 64
"""Length to which a name is cut for messages."""

_LXC_PARENTS = ("lxc", "lxc.payload")
_LXC_PREFIX = "lxc.payload."
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class CgroupContainer:
    """The outermost container in a cgroup path.

    Attributes:
        id: its full id; "" for engines that name cgroups by the container's name.
        name: its name, for systemd-nspawn and LXC; "" for engines that name cgroups by its id.
        engine: "docker", "podman", or "" for others.
        base: the path of its cgroup.
    """

    id: str
    name: str
    engine: str
    base: str

    def __str__(self) -> str:
        """Its name, made printable, or the first digits of its id, as ``docker ps`` shows them."""
        name = "".join(char if char.isprintable() else "?" for char in self.name[:MAX_NAME])
        return name or self.id[:12]


@dataclass(frozen=True, slots=True)
class CgroupPlace:
    """Where a process runs according to its cgroup.

    Attributes:
        path: the path; "" where unknown.
        container: its container; None outside of containers.
        slices: the slices that contain it, outermost first; below a user's service manager, those of that manager.
        unit: the unit of the system's service manager; "" without one.
        user_unit: the unit of a user's service manager.
        uid: the user whose service manager created the cgroup; None for the system's.
    """

    path: str = ""
    container: CgroupContainer | None = None
    slices: tuple[str, ...] = ()
    unit: str = ""
    user_unit: str = ""
    uid: int | None = None


def parse_cgroup_file(text: str) -> CgroupPlace:
    """The place of a process by the content of its /proc/PID/cgroup; unreadable content gives an empty place.

    On hosts with cgroup v1 or both versions there are several paths; the one that names a container counts first, then
    that of version 2, then that of systemd.
    """
    rows = [line.split(":", 2) for line in text.splitlines()]
    paths = {row[1]: row[2].removesuffix(_DELETED) for row in rows if len(row) == 3 and row[2].startswith("/")}
    ordered = [paths.pop(key) for key in ("", "name=systemd") if key in paths] + list(paths.values())
    places = [place_of(path) for path in ordered]
    with_container = (place for place in places if place.container is not None)
    below_root = (place for place in places if place.path not in ("", "/"))
    return next(with_container, None) or next(below_root, None) or (places[0] if places else CgroupPlace())


def place_of(path: str) -> CgroupPlace:
    """The place that a cgroup path describes."""
    if not path.startswith("/") or len(path) > MAX_PATH:
        return CgroupPlace()
    # A reader in a cgroup namespace of its own sees paths outside of it as /../…
    parts = [part for part in path.split("/") if part not in ("", "..")]
    manager = _count_slices(parts)
    user = _USER_MANAGER.fullmatch(parts[manager]) if manager < len(parts) else None
    below = parts[manager + 1 :] if user else parts
    count = _count_slices(below)
    inner = below[count] if count < len(below) and below[count].endswith((".service", ".scope")) else ""
    return CgroupPlace(
        "/" + "/".join(parts),
        _outermost_container(parts),
        tuple(below[:count]),
        parts[manager] if user else inner,
        inner if user else "",
        int(user[1]) if user else None,
    )


def place_of_unit(unit: str) -> CgroupPlace:
    """The place of processes of which only the name of the unit is known, such as ``docker-ID.scope``."""
    return place_of(f"/{unit}") if unit else CgroupPlace()


def _count_slices(parts: Sequence[str]) -> int:
    return next((index for index, part in enumerate(parts) if not part.endswith(".slice")), len(parts))


def _outermost_container(parts: Sequence[str]) -> CgroupContainer | None:
    for index, part in enumerate(parts):
        base = "/" + "/".join(parts[: index + 1])
        if match := _ID.fullmatch(part):
            is_pod = match["prefix"] is None and index + 1 < len(parts) and parts[index + 1].startswith("libpod-")
            if is_pod:
                continue  # /libpod_parent/POD/libpod-ID
            return CgroupContainer(match["id"], "", _engine(match["prefix"] or "", parts[:index]), base)
        if name := _name(part, parts[index - 1] if index else ""):
            return CgroupContainer("", name, "", base)
    return None


def _engine(prefix: str, parents: Sequence[str]) -> str:
    if prefix.startswith("libpod") or parents[-1:] == ["libpod_parent"]:
        return "podman"
    return "docker" if prefix == "docker" or parents[-1:] == ["docker"] else ""


def _name(part: str, parent: str) -> str:
    """The name of a container of systemd-nspawn, libvirt or LXC; "" for any other directory."""
    if parent in _LXC_PARENTS:
        return part
    if part.startswith(_LXC_PREFIX):
        return part.removeprefix(_LXC_PREFIX)
    match = _MACHINE.fullmatch(part)
    if match is None:
        return ""
    name = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), match["scope"] or match["service"])
    return _LIBVIRT.sub("", name, count=1)
