"""Containers of a rootless Podman: for a daemon of the same user, and for the system's daemon after a drop-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.engines import IMAGE, IMAGE_FILE, STORAGE_VFS, EngineHost, command, engine_host, options
from tests.e2e.host import VRAM_DIR
from tests.e2e.machine import Machine
from tests.e2e.user_session import HOME, UserMachine, UserSession

DROP_IN = "/run/systemd/system/gpumand-containers.service.d/e2e-rootless.conf"


@pytest.fixture(scope="module")
def machine(machine_with_engines: Machine) -> Machine:
    """Run on the machine with engines."""
    return machine_with_engines


@pytest.fixture(scope="module")
def begun(machine: Machine) -> UserSession:
    """A user's session, shared by the tests of this module."""
    return UserSession.begin(machine)


@pytest.fixture
def session(begun: UserSession) -> Iterator[UserSession]:
    """The session with a rootless Podman and the image, without configuration and consumers."""
    one = UserSession(begun.machine, begun.client)
    one.configure()
    one.machine.write_file(f"{HOME}/.config/containers/storage.conf", STORAGE_VFS)
    one.machine.run(["podman", "import", IMAGE_FILE, IMAGE])
    one.machine.systemctl("start", "podman.socket")
    yield one
    one.machine.systemctl("stop", "podman.socket", "podman.service", "gpumand-containers.service", check=False)
    one.machine.run(["podman", "rm", "--force", "--all", "--time=0"], check=False)
    one.machine.run(["podman", "system", "reset", "--force"], check=False)
    one.clean()


def is_running(user: UserMachine, name: str) -> bool:
    argv = ["podman", "inspect", "--type=container", "--format={{.State.Running}}", name]
    return user.run(argv, check=False).stdout.strip() == "true"


def test_daemon_of_a_user_starts_and_stops_containers_of_the_user(session: UserSession) -> None:
    session.machine.run(["mkdir", "--parents", session.simulator])
    argv = command("comfyui", 10000, folder=session.simulator)
    session.machine.run(["podman", "create", *options("comfyui", folder=session.simulator), IMAGE, *argv])
    session.holder("llama", 20000)
    session.add('[consumers.comfyui]\nvram_resident_mib = 10000\ncontainer = "comfyui"\n')
    assert session.machine.systemctl("is-enabled", "gpumand-containers.socket").strip() == "enabled"
    session.machine.systemctl("start", "gpumand-containers.socket")

    lease, _ = session.client.acquire("comfyui")
    assert is_running(session.machine, "comfyui")
    session.client.await_memory("comfyui", 10000)
    session.client.release(lease)
    _, grant = session.client.acquire("llama")

    assert (grant["evicted"], is_running(session.machine, "comfyui")) == (["comfyui"], False)


@pytest.fixture
def host(machine: Machine) -> Iterator[EngineHost]:
    one = engine_host(machine)
    yield one
    one.clean()
    machine.remove(DROP_IN)
    machine.systemctl("daemon-reload")


@pytest.fixture
def client(host: EngineHost) -> Client:
    """Calls to the system's daemon."""
    return host.client


def test_daemon_of_the_system_controls_rootless_containers_after_a_drop_in(
    session: UserSession, host: EngineHost, client: Client
) -> None:
    folder = f"{session.machine.runtime}/podman"
    lines = (
        "[Service]",
        f"Environment=GPUMAND_ENGINES=podman={folder}/podman.sock",
        f"BindReadOnlyPaths={folder}",
        "ProtectHome=tmpfs",
        "CapabilityBoundingSet=CAP_DAC_OVERRIDE",
    )
    host.machine.write_file(DROP_IN, "\n".join([*lines, ""]))
    host.machine.systemctl("daemon-reload")
    host.machine.run(["mkdir", "--parents", "--mode=1777", VRAM_DIR])
    session.machine.run(["podman", "create", *options("comfyui"), IMAGE, *command("comfyui", 10000)])
    host.consumer("comfyui", 10000, 'container = "comfyui"', unit=False)
    host.holder("llama", 20000)
    host.start()

    lease, _ = client.acquire("comfyui")
    assert is_running(session.machine, "comfyui")
    client.release(lease)
    _, grant = client.acquire("llama")

    assert (grant["evicted"], is_running(session.machine, "comfyui")) == (["comfyui"], False)
