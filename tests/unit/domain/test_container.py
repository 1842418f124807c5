"""How the configuration names a container."""

from __future__ import annotations

import pytest

from gpumand.domain.container import ContainerEngine, ContainerRef, ContainerState

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("comfyui", ContainerRef("comfyui")),
        ("docker:comfyui", ContainerRef("comfyui", ContainerEngine.DOCKER)),
        ("podman:a.b-c_1", ContainerRef("a.b-c_1", ContainerEngine.PODMAN)),
    ],
)
def test_names_with_and_without_engine(text: str, ref: ContainerRef) -> None:
    assert ContainerRef.parse(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize("text", ["", "docker:", "lxc:a", "a/b", "-a", "a b", "a\n", "docker:podman:a", "ä", "a" * 255])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="container"):
        ContainerRef.parse(text)


@pytest.mark.parametrize(
    ("text", "engine", "name", "matches"),
    [
        ("comfyui", "docker", "comfyui", True),
        ("comfyui", "", "comfyui", True),
        ("podman:comfyui", "docker", "comfyui", False),
        ("podman:comfyui", "podman", "comfyui", True),
        ("comfy", "docker", "comfyui", False),
        (ID[:12], "docker", "other", True),
        (ID, "docker", "other", True),
        (ID[:11], "docker", "other", False),
        (f"{ID}0", "docker", "other", False),
        ("comfyui", "docker", "0123456789ab_comfyui", True),
        ("comfyui", "docker", "0123456789ab_cccccccccccc_comfyui", True),
        ("podman:comfyui", "docker", "0123456789ab_comfyui", False),
        ("comfyui", "docker", "0123456789ab-comfyui", False),
        ("comfyui", "docker", "old_comfyui", False),
        ("0123456789ab_comfyui", "docker", "comfyui", False),
    ],
)
def test_name_or_long_id_prefix_selects_a_container(text: str, engine: str, name: str, matches: bool) -> None:
    assert ContainerRef.parse(text).matches(engine, ID, name) is matches


def test_label_that_is_missing_is_empty() -> None:
    state = ContainerState("docker", ID, "a", True, labels=(("PODMAN_SYSTEMD_UNIT", "a.service"),))
    assert (state.label("PODMAN_SYSTEMD_UNIT"), state.label("x")) == ("a.service", "")
