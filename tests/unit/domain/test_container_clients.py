"""Command lines of container clients and monitors."""

from __future__ import annotations

import shlex

import pytest

from gpumand.domain.container_clients import ContainerClient, clients_in, parse_client, parse_monitor, parse_proxy

ID = "3f1c" * 16

CLIENTS = {
    "docker run --rm --name comfyui --gpus all -p 127.0.0.1:8188:8188 -v /srv:/data comfy:latest --port 1 --name x": (
        ContainerClient("run", ("comfyui",), "", (8188,), "comfy:latest")
    ),
    "/usr/bin/docker --host unix:///run/docker.sock container run -it --name=a img": (
        ContainerClient("run", ("a",), "", (), "img")
    ),
    "podman run --cidfile=/run/comfyui.service.ctr-id --cgroups=no-conmon --sdnotify=conmon -d --replace --name b i": (
        ContainerClient("run", ("b",), "/run/comfyui.service.ctr-id", (), "i")
    ),
    "podman run -dit -p8080:80 -p [::1]:9000:90 -p 53:53/udp --publish=81:81/tcp img sh -c 'x'": (
        ContainerClient("run", (), "", (8080, 9000, 81), "img")
    ),
    "docker run -itp 8000:8000 -e A=b --shm-size 1g vllm/vllm-openai": (
        ContainerClient("run", (), "", (8000,), "vllm/vllm-openai")
    ),
    "docker start -a comfyui": ContainerClient("start", ("comfyui",)),
    "docker compose -f /srv/ai/compose.yaml up": ContainerClient("compose"),
    "/usr/bin/docker-compose up": ContainerClient("compose"),
    "/usr/libexec/docker/cli-plugins/docker-compose compose up": ContainerClient("compose"),
    "/usr/bin/python3 /usr/bin/podman-compose up": ContainerClient("compose"),
    "nerdctl -n gpu run --name c img": ContainerClient("run", ("c",), "", (), "img"),
    "docker run": ContainerClient("run"),
    "docker run --name": ContainerClient("run"),
}


@pytest.mark.parametrize(("command", "client"), CLIENTS.items(), ids=CLIENTS.keys())
def test_clients_that_start_containers(command: str, client: ContainerClient) -> None:
    assert parse_client(shlex.split(command)) == client


@pytest.mark.parametrize(
    "command",
    [
        "",
        "docker",
        "docker ps",
        "docker exec -it a sh",
        "podman stop a",
        "python3",
        "llama-server run",
        "docker stop run",
    ],
)
def test_other_commands(command: str) -> None:
    assert parse_client(shlex.split(command)) is None


def test_monitor_of_podman_names_its_container() -> None:
    command = (
        f"/usr/bin/conmon --api-version 1 -c {ID} -u {ID} -r /usr/bin/crun -b /var/lib/containers/x/userdata "
        f"-p /run/pidfile -n comfyui --exit-dir /run/libpod/exits --full-attach -s -l journald --log-level warning "
        f"--exit-command /usr/bin/podman --exit-command-arg --root --exit-command-arg {ID}"
    ).split()
    monitor = parse_monitor(command)
    assert monitor is not None
    assert (monitor.id, monitor.name) == (ID, "comfyui")
    assert parse_monitor(["/usr/bin/conmon"]) is None
    assert parse_monitor(["other", "-c", ID]) is None


def test_proxy_of_docker_names_port_and_address() -> None:
    command = (
        "/usr/bin/docker-proxy -proto {} -host-ip 0.0.0.0 -host-port {} -container-ip 172.17.0.2 -container-port 80"
    )
    assert parse_proxy(command.format("tcp", 8188).split()) == (8188, "172.17.0.2")
    assert parse_proxy(command.format("udp", 8188).split()) is None
    assert parse_proxy(command.format("tcp", "x").split()) is None
    assert parse_proxy(["sh"]) is None


SCRIPTS = {
    "exec docker run --name a img": ["a"],
    "cd /srv && FOO=1 sudo docker run --name a img; true": ["a"],
    "docker rm -f a || true; docker run --name a img | tee log\ndocker start b": ["a", "b"],
    "echo 'docker run --name a img'": [],
    "docker run --name 'a": [],
    "": [],
}


@pytest.mark.parametrize(("script", "names"), SCRIPTS.items(), ids=SCRIPTS.keys())
def test_clients_within_the_command_of_a_shell(script: str, names: list[str]) -> None:
    found = clients_in(["/bin/sh", "-c", script])
    assert [name for client in found for name in client.names] == names


def test_shell_without_a_command_has_no_client() -> None:
    assert clients_in(["/bin/sh", "-c"]) == ()
    assert clients_in(["/bin/sh", "run.sh"]) == ()
    assert clients_in([]) == ()
    assert clients_in(["docker", "run", "--name", "a", "img"])[0].names == ("a",)
