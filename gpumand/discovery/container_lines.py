"""The lines of a starter configuration that name a container, and comments on what to know about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gpumand.config.toml_writer import toml_string
from gpumand.discovery.containers import RESTARTING, FoundContainer
from gpumand.domain.container_networks import allow_addresses, is_dnat_only


def container_keys(container: FoundContainer) -> Iterator[str]:
    """The key by which the processes of a container are found; none for a unit that contains them."""
    if container.is_quadlet:
        return
    if not container.reference:
        why = "its pod" if container.cgroup_pattern != container.base else "its cgroup"
        text = toml_string(container.cgroup_pattern or container.base)
        yield f"cgroup = {text}  # {why}; a new pod or container has another path"
    elif container.name:
        yield f"container = {toml_string(container.reference)}"
    else:
        yield (
            f"container = {toml_string(container.reference)}  # its id, which changes when it is created again: "
            "run gpumanctl init as root to find its name"
        )


def eviction_key(container: FoundContainer) -> Iterator[str]:
    """The eviction methods, where gpumand cannot start and stop the container that it finds the processes by."""
    if container.reference and not container.unit and not container.is_controllable and not container.engine:
        yield 'evict = ["http"]  # gpumand cannot start and stop containers of this engine'


def container_comments(container: FoundContainer, listening: Collection[int]) -> Iterator[str]:
    """What to know about a container.

    Args:
        container: the container.
        listening: TCP ports at which processes of the host listen.
    """
    if container.uid is not None:
        yield (
            f"# It is a container of user {container.uid}: only that user's gpumand can start and stop it. Run: "
            "gpumanctl init --user"
        )
    elif not container.unit and not container.is_controllable:
        yield "# gpumand cannot start and stop this container, so only its unload route can free its memory."
    if container.unit and not container.is_quadlet and container.restart_policy in RESTARTING:
        yield (
            f"# Its restart policy is {container.restart_policy}: the engine may start it again after {container.unit} "
            "was stopped. Use the policy no, and Restart= of the unit."
        )
    if is_dnat_only(container.ports, container.addresses, listening):
        yield (
            "# Its port is published by DNAT only, which IPAddressAllow= of gpumand.service blocks. Allow its address:"
        )
        yield f"#   sudo systemctl edit gpumand   # [Service] IPAddressAllow={allow_addresses(container.addresses)}"
