"""Checks of consumers in containers: the helper, restart policies, published ports, and containers without a consumer.

What restart policies do after a stop: Docker ignores them after ``docker stop`` until its daemon starts again
(documentation "Start containers automatically"); a signal that a client passes on counts as a stop as well, unless the
image has another stop signal (``killWithSignal`` in moby's daemon/kill.go: then only ``always`` restarts it). Podman
never restarts a container after ``podman stop`` or a passed-on signal (``StoppedByUser`` in libpod). In both engines a
container outlives a client that was killed, and is restarted when its process ends by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning
from gpumand.config.presets import preset
from gpumand.discovery.containers import RESTARTING, FoundContainer
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import ContainerRef
from gpumand.domain.container_networks import allow_addresses
from gpumand.domain.socket_url import split_socket_url

HELPER = "gpumand-containers.socket"
ACTIVE = ("active", "activating")


def helper(facts: Facts) -> Iterator[Finding]:
    """The helper that starts and stops containers can be reached, where a consumer needs it."""
    names = [name for name, spec in facts.consumers.items() if "container" in spec.evict]
    unit = facts.containers.helper if facts.containers else None
    if names and unit is not None and unit.active_state not in ACTIVE:
        why = "gpumand cannot start, stop and inspect its container without it"
        yield problem(f"{names[0]}: {HELPER} is not active", why, facts.systemctl(f"enable --now {HELPER}"))


def found(facts: Facts) -> Iterator[Finding]:
    """Containers of known servers belong to consumers."""
    if facts.containers is None:
        return
    if facts.containers.error and any(spec.container for spec in facts.consumers.values()):
        yield unchecked("containers", facts.containers.error, facts.ctl_as_root("doctor"))
    for container in facts.containers.found:
        name = facts.containers.presets.get(container.key)
        if name is None or _consumers_in(facts, container):
            continue
        image = f" ({container.image})" if container.image else ""
        yield note(
            f"{container.title}{image} looks like {preset(name).about.title}, and belongs to no consumer",
            "its VRAM counts as that of an unknown program, and gpumand never evicts it",
            f"{facts.ctl_as_root('init')}   # prints its configuration",
        )


def restarts(facts: Facts) -> Iterator[Finding]:
    """No restart policy undoes an eviction."""
    for name, spec, container in _pairs(facts):
        if container.restart_policy not in RESTARTING:
            continue
        what = f"{name}: {container.title} has the restart policy {container.restart_policy}"
        if spec.unit and "unit-stop" in spec.evict:
            yield _fights_unit(facts, what, spec, container)
        elif spec.evict[:1] == ("http",):
            why = "if the unload route ends the process, the engine starts the container again, which takes the VRAM"
            yield note(what, why, _without_policy(facts, container))
        elif container.engine == "docker" and container.restart_policy == "always":
            why = (
                "Docker respects a stop by gpumand until its own service starts again; after that, as at boot, it "
                "starts the container without a request"
            )
            fix = facts.root(f"docker update --restart=unless-stopped {container.name}")
            yield note(what, why, fix)


def _fights_unit(facts: Facts, what: str, spec: ConsumerSpec, container: FoundContainer) -> Finding:
    failed = any(
        one.get("consumer") == spec.name and one.get("method") == "unit-stop" for one in facts.failed_evictions
    )
    if container.engine == "docker":
        why = (
            f"Docker starts it again when it ends without a docker stop: if its client in {spec.unit} is killed, or "
            "passes on another signal than the stop signal of the image"
        )
    else:
        why = f"the container outlives its client in {spec.unit} if that is killed, and Podman starts it again"
    if failed:
        why += "; evictions by stopping the unit have failed"
    fix = f"{_without_policy(facts, container)}   # and Restart=on-failure in {spec.unit}"
    return warning(what, why, fix)


def _without_policy(facts: Facts, container: FoundContainer) -> str:
    command = f"{container.engine or 'docker'} update --restart=no {container.name or container.key[:12]}"
    since = "   # Podman 5.1 or later; else create it again" if container.engine == "podman" else ""
    return facts.root(command) + since


def ports(facts: Facts) -> Iterator[Finding]:
    """gpumand.service may connect to the published ports of consumers in containers."""
    service = facts.service
    if not facts.is_system or service is None or not service.ip_deny or facts.containers is None:
        return
    for name, spec, container in _pairs(facts):
        blocked = [one for one in _reached_addresses(facts, spec, container) if not _is_allowed(one, service.ip_allow)]
        if blocked:
            yield problem(
                f"{name}: {spec.url} leads to {container.title} at {', '.join(blocked)}, which gpumand.service may not "
                "connect to",
                "its port is published by DNAT only, without a proxy on this host, and IPAddressAllow= lacks the "
                "address, so that health checks time out",
                f"{facts.systemctl('edit gpumand')}   # [Service] IPAddressAllow={allow_addresses(blocked)} and then: "
                f"{facts.systemctl('restart gpumand')}",
            )


def _reached_addresses(facts: Facts, spec: ConsumerSpec, container: FoundContainer) -> tuple[str, ...]:
    """The container's addresses to which packets for the consumer's URL go; () where a process of the host answers."""
    if facts.containers is None or not spec.url or split_socket_url(spec.url) is not None:
        return ()
    parts = urlsplit(spec.url)
    if parts.hostname in container.addresses:
        return (str(parts.hostname),)
    is_published = any(one.host_port == parts.port for one in container.ports)
    return container.addresses if is_published and parts.port not in facts.containers.listening else ()


def _is_allowed(address: str, networks: tuple[str, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
        return any(parsed in ipaddress.ip_network(network, strict=False) for network in networks)
    except ValueError:
        return True


def _pairs(facts: Facts) -> Iterator[tuple[str, ConsumerSpec, FoundContainer]]:
    for container in facts.containers.found if facts.containers else ():
        yield from ((spec.name, spec, container) for spec in _consumers_in(facts, container))


def _consumers_in(facts: Facts, container: FoundContainer) -> list[ConsumerSpec]:
    return [spec for spec in facts.consumers.values() if _is_in(spec, container)]


def _is_in(spec: ConsumerSpec, container: FoundContainer) -> bool:
    if spec.container:
        return ContainerRef.parse(spec.container).matches(container.engine, container.key, container.name)
    return bool(spec.unit) and spec.unit == container.unit
