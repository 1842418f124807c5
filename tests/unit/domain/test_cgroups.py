"""Cgroup layouts of container engines, as /proc/PID/cgroup shows them on the host."""

from __future__ import annotations

import pytest

from gpumand.domain.cgroups import parse_cgroup_file, place_of, place_of_unit

ID = "3f1c" * 16
OTHER = "77aa" * 16
USER = "/user.slice/user-1000.slice/user@1000.service"

BY_ID = {
    "docker, systemd driver, v2": (f"0::/system.slice/docker-{ID}.scope", "docker"),
    "docker, cgroupfs driver, v2": (f"0::/docker/{ID}", "docker"),
    "docker, own cgroup parent": (f"0::/llm.slice/docker-{ID}.scope", "docker"),
    "docker, process in a cgroup of its own inside": (f"0::/system.slice/docker-{ID}.scope/init", "docker"),
    "docker, seen from another cgroup namespace": (f"0::/../docker-{ID}.scope", "docker"),
    "rootless docker": (f"0::{USER}/app.slice/docker-{ID}.scope", "docker"),
    "docker in docker": (f"0::/docker/{ID}/docker/{OTHER}", "docker"),
    "docker, v1, systemd driver": (
        f"12:memory:/system.slice/docker-{ID}.scope\n1:name=systemd:/system.slice/docker-{ID}.scope\n"
        "0::/system.slice/containerd.service",
        "docker",
    ),
    "docker, v1, cgroupfs driver": (f"11:devices:/docker/{ID}\n1:name=systemd:/docker/{ID}", "docker"),
    "podman 4, crun": (f"0::/machine.slice/libpod-{ID}.scope/container", "podman"),
    "podman 3, runc": (f"0::/machine.slice/libpod-{ID}.scope", "podman"),
    "podman, pod": (f"0::/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope/container", "podman"),
    "podman, cgroupfs": (f"0::/libpod_parent/libpod-{ID}", "podman"),
    "podman, cgroupfs, pod": (f"0::/libpod_parent/{OTHER}/libpod-{ID}", "podman"),
    "podman, split (quadlet)": (f"0::/system.slice/comfyui.service/libpod-payload-{ID}", "podman"),
    "rootless podman": (f"0::{USER}/user.slice/libpod-{ID}.scope/container", "podman"),
    "rootless quadlet": (f"0::{USER}/app.slice/comfyui.service/libpod-payload-{ID}", "podman"),
    "podman, v1": (
        f"5:devices:/machine.slice/libpod-{ID}.scope\n1:name=systemd:/machine.slice/libpod-{ID}.scope",
        "podman",
    ),
    "kubernetes, containerd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6c1_2.slice/cri-containerd-{ID}.scope",
        "",
    ),
    "kubernetes, guaranteed": (f"0::/kubepods.slice/kubepods-pod6c1_2.slice/cri-containerd-{ID}.scope", ""),
    "kubernetes, crio": (f"0::/kubepods.slice/kubepods-besteffort.slice/crio-{ID}.scope/container", ""),
    "kubernetes, cgroupfs": (f"0::/kubepods/burstable/pod6c1-2/{ID}", ""),
    "kubernetes, mixed drivers": (f"0::/system.slice/kubepods-pod6c1.slice:cri-containerd:{ID}", ""),
    "nerdctl": (f"0::/system.slice/nerdctl-{ID}.scope", ""),
    "nerdctl, cgroupfs": (f"0::/default/{ID}", ""),
}


@pytest.mark.parametrize(("text", "engine"), BY_ID.values(), ids=BY_ID.keys())
def test_layouts_that_name_the_id(text: str, engine: str) -> None:
    container = parse_cgroup_file(text).container
    assert container is not None
    assert (container.id, container.name, container.engine) == (ID, "", engine)
    assert ID in container.base.rsplit("/", 1)[-1]


BY_NAME = {
    "systemd-nspawn as a service": ("0::/machine.slice/systemd-nspawn@comfy\\x2dui.service/payload", "comfy-ui"),
    "systemd-nspawn in a terminal": ("0::/machine.slice/machine-comfy\\x2dui.scope/payload/system.slice", "comfy-ui"),
    "libvirt": ("0::/machine.slice/machine-qemu\\x2d3\\x2dwin11.scope/libvirt/emulator", "win11"),
    "lxc 5": ("0::/lxc.payload.comfyui/system.slice/comfyui.service", "comfyui"),
    "lxc 4": ("0::/lxc.payload/comfyui/init.scope", "comfyui"),
    "lxc 3, v1": ("4:memory:/lxc/comfyui\n1:name=systemd:/lxc/comfyui/init.scope", "comfyui"),
    "proxmox": ("0::/lxc/101/ns/system.slice/ollama.service", "101"),
    "docker inside proxmox": (f"0::/lxc/101/ns/system.slice/docker-{ID}.scope", "101"),
}


@pytest.mark.parametrize(("text", "name"), BY_NAME.values(), ids=BY_NAME.keys())
def test_layouts_that_name_the_container(text: str, name: str) -> None:
    container = parse_cgroup_file(text).container
    assert container is not None
    assert (container.id, container.name) == ("", name)


OUTSIDE = {
    "service": "/system.slice/comfyui.service",
    "service with a short hexadecimal name": "/system.slice/docker-3f1c.scope",
    "the engine itself": "/system.slice/docker.service",
    "monitor of a user's session": "/user.slice/user-1000.slice/session-3.scope",
    "pod": f"/machine.slice/machine-libpod_pod_{ID}.slice",
    "id with a digit too many": f"/docker/{ID}0",
    "capital digits": f"/docker/{ID.upper()}",
    "lxc's own folder": "/lxc.payload",
    "root": "/",
}


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_paths_outside_of_containers(path: str) -> None:
    assert place_of(path).container is None


def test_units_and_slices_of_the_system_and_of_users() -> None:
    place = place_of("/system.slice/system-llama.slice/llama@one.service/sub")
    assert (place.unit, place.user_unit, place.uid) == ("llama@one.service", "", None)
    assert place.slices == ("system.slice", "system-llama.slice")
    place = place_of(f"{USER}/app.slice/app-llm.slice/comfyui.service/libpod-payload-{ID}")
    assert (place.unit, place.user_unit, place.uid) == ("user@1000.service", "comfyui.service", 1000)
    assert place.slices == ("app.slice", "app-llm.slice")


def test_container_that_calls_its_own_cgroup_like_another_container_is_not_taken_for_it() -> None:
    for inner in (f"docker/{OTHER}", f"docker-{OTHER}.scope", "lxc/comfyui", "machine-comfyui.scope"):
        container = place_of(f"/system.slice/docker-{ID}.scope/{inner}").container
        assert container is not None
        assert (container.id, container.base) == (ID, f"/system.slice/docker-{ID}.scope")


@pytest.mark.parametrize(
    "text", ["", "\n", "garbage", "0::", "0::relative", "1:name=systemd", "0::/" + "a/" * 3000, "\x00", "::/x\n:::"]
)
def test_unusual_content_has_no_container(text: str) -> None:
    assert parse_cgroup_file(text).container is None


def test_removed_cgroup_and_colons_in_names() -> None:
    assert parse_cgroup_file(f"0::/docker/{ID} (deleted)").container is not None
    assert parse_cgroup_file("0::/system.slice/a:b:c.service").unit == "a:b:c.service"


def test_unit_name_alone_names_the_container() -> None:
    container = place_of_unit(f"docker-{ID}.scope").container
    assert container is not None
    assert container.id == ID
    assert place_of_unit("").path == ""


def test_name_with_control_characters_is_made_printable() -> None:
    container = place_of("/machine.slice/machine-a\\x00\\x1b[31m.scope").container
    assert container is not None
    assert str(container) == "a??[31m"
    assert len(str(place_of(f"/lxc/{'a' * 200}").container)) == 64
