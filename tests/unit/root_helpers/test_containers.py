"""The container helper: only configured containers, few operations, few fields, and limits on everything."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from gpumand.root_helpers import containers
from gpumand.root_helpers.container_engine import Engine, described, log_lines
from gpumand.root_helpers.containers import configured_containers, engines_of
from gpumand.testing.container_engine import FakeContainer
from tests.unit.root_helpers.helper_host import Host

FIELDS = {
    *("engine", "id", "name", "status", "running", "pid", "exit_code", "oom_killed", "error", "started_at", "restarts"),
    *("restart_policy", "image", "network_mode", "addresses", "ports", "labels"),
}


def remove(path: str) -> None:
    """Remove the socket of an engine, as when its service is not running."""
    Path(path).unlink(missing_ok=True)


def link(target: str, path: str) -> None:
    """Make a link, as the package podman-docker does."""
    Path(path).symlink_to(target)


# -- which containers --------------------------------------------------------------------------------------------------


async def test_configured_container_is_started_inspected_and_stopped(host: Host) -> None:
    host.docker.containers = [container := FakeContainer("comfyui")]

    await host.do("start")
    assert (await host.do("inspect"))["running"] is True
    await host.do("stop")

    assert (container.status, container.runs) == ("exited", 1)


@pytest.mark.parametrize("operation", ["inspect", "start", "stop", "logs"])
@pytest.mark.parametrize("name", ["other", "", "COMFYUI", "comfyui/../other", "docker:comfyui", None, ["comfyui"], 7])
async def test_other_container_is_refused_without_a_request_to_an_engine(host: Host, operation: str, name: Any) -> None:
    host.docker.containers = [FakeContainer("comfyui"), FakeContainer("other", id="2" * 64)]

    assert (await host.refusal(operation, name)).reason == "denied"
    assert host.docker.requests == host.podman.requests == []


async def test_short_prefix_of_an_id_does_not_name_a_container(host: Host) -> None:
    host.configure("abc", "abcdefabcdef")
    host.docker.containers = [FakeContainer("other", id="abcdef" * 10 + "abcd")]

    assert (await host.refusal("stop", "abc")).reason == "not-found"
    assert (await host.do("inspect", "abcdefabcdef"))["name"] == "other"
    assert not any(request.startswith("POST") for request in host.docker.requests)


async def test_container_of_two_engines_is_ambiguous_unless_its_engine_is_named(host: Host) -> None:
    host.configure("comfyui", "podman:comfyui")
    host.docker.containers = [FakeContainer("comfyui")]
    host.podman.containers = [FakeContainer("comfyui", id="2" * 64)]

    refused = await host.refusal("stop")
    assert (refused.reason, "docker:comfyui or podman:comfyui" in str(refused)) == ("ambiguous", True)
    assert (await host.do("inspect", "podman:comfyui"))["engine"] == "podman"


async def test_second_name_of_one_socket_is_not_a_second_engine(host: Host, tmp_path: Path) -> None:
    await host.docker.close()
    remove(host.paths["docker"])
    link(host.paths["podman"], host.paths["docker"])
    host.podman.containers = [FakeContainer("comfyui")]

    assert (await host.do("inspect"))["engine"] == "podman"


@pytest.mark.parametrize("mode", [0o664, 0o646])
async def test_configuration_that_others_can_write_does_not_count(host: Host, mode: int) -> None:
    host.config.chmod(mode)
    assert (await host.refusal("stop")).reason == "denied"


def test_configuration_of_another_owner_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text('[consumers.a]\ncontainer = "comfyui"\n')
    file.chmod(0o644)
    assert configured_containers([file], os.getuid()) == ["comfyui"]
    assert configured_containers([file], os.getuid() + 1) == []


@pytest.mark.parametrize(
    "text", ["not [ toml", "consumers = 1", '[consumers.a]\ncontainer = "a/../b"', "[consumers.a]\ncontainer = 1", "\0"]
)
def test_malformed_configuration_names_no_container(tmp_path: Path, text: str) -> None:
    good, bad = tmp_path / "a.toml", tmp_path / "b.toml"
    good.write_text('[consumers.a]\ncontainer = "docker:comfyui"\n')
    bad.write_text(text)
    assert configured_containers([bad, good, tmp_path / "absent.toml"], os.getuid()) == ["docker:comfyui"]


# -- what is reported --------------------------------------------------------------------------------------------------


async def test_report_has_a_fixed_list_of_fields_without_environment_and_mounts(host: Host) -> None:
    labels = {"secret": "token", "PODMAN_SYSTEMD_UNIT": "comfyui.service"}
    host.docker.containers = [FakeContainer("comfyui", status="running", labels=labels)]

    state = await host.do("inspect")

    assert set(state) == FIELDS
    assert state["labels"] == {"PODMAN_SYSTEMD_UNIT": "comfyui.service"}
    assert not {"TOKEN", "secret", ".ssh"} & set(json.dumps(state).replace('"', " ").split())
    assert "secret" not in json.dumps(state)


@pytest.mark.parametrize(
    "answer", [{}, {"State": 1, "Config": [], "HostConfig": "x"}, {"State": {"Pid": -1, "ExitCode": True, "Status": 7}}]
)
def test_unusual_answers_of_an_engine_are_described(answer: dict[str, Any]) -> None:
    state = described("docker", answer)
    assert (set(state), state["running"], state["pid"], state["exit_code"]) == (FIELDS, False, 0, 0)


def test_texts_of_an_engine_are_limited_and_printable() -> None:
    state = described("docker", {"Name": "/" + "a" * 10_000, "Config": {"Image": "a\x1b[2Jb\n"}})
    assert len(state["name"]) < 300
    assert state["image"] == "a [2Jb"


def test_published_ports_are_those_of_tcp() -> None:
    ports = {"8188/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18188"}], "53/udp": [{"HostPort": "53"}], "1/tcp": None}
    assert described("docker", {"NetworkSettings": {"Ports": ports}})["ports"] == [["127.0.0.1", 18188, 8188]]


def test_log_lines_are_read_with_and_without_frames() -> None:
    framed = b"\1\0\0\0\0\0\0\4one\n" + b"\2\0\0\0\0\0\0\4two\n"
    assert log_lines(framed) == ["one", "two"]
    assert log_lines(b"one\r\n\r\ntwo\n") == ["one", "two"]
    assert log_lines(b"\n".join(b"%d" % number for number in range(9))) == ["4", "5", "6", "7", "8"]


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_missing_engines_are_named(host: Host) -> None:
    for path in host.paths.values():
        remove(path)
    refused = await host.refusal("inspect")
    assert (refused.reason, host.paths["podman"] in str(refused)) == ("unavailable", True)
    assert host.operations.is_stale, "an engine that starts later is found by a new process"
    assert (await host.refusal("list", None)).reason == "unavailable"


async def test_engine_that_refuses_connections_is_unavailable(host: Host) -> None:
    host.configure("docker:comfyui")
    remove(host.paths["docker"])
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(host.paths["docker"])
    refused = await host.refusal("stop", "docker:comfyui")
    assert (refused.reason, "Connection refused" in str(refused)) == ("unavailable", True)


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense",
        b"HTTP/1.1 200 OK\r\n\r\n{not json",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b" " * 5_000_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
    ],
)
async def test_invalid_answer_of_an_engine_is_a_named_failure(host: Host, garbage: bytes) -> None:
    host.configure("docker:comfyui")
    host.docker.garbage = garbage
    assert (await host.refusal("inspect", "docker:comfyui")).reason in ("unavailable", "failed", "not-found")


async def test_stop_that_takes_too_long_names_its_limit(host: Host) -> None:
    host.docker.containers = [FakeContainer("comfyui", status="running", stop_sec=30)]
    refused = await host.refusal("stop", timeout_sec=0.2)
    assert (refused.reason, str(refused)) == ("timeout", "container comfyui did not stop within 0.2 s")


async def test_error_of_the_engine_is_part_of_the_message(host: Host) -> None:
    host.docker.containers = [FakeContainer("comfyui", start_error="could not select device driver with gpu")]
    refused = await host.refusal("start")
    assert str(refused) == "container comfyui did not start: could not select device driver with gpu"


async def test_unavailable_engine_does_not_hide_the_container_of_another(host: Host) -> None:
    remove(host.paths["docker"])
    host.podman.containers = [FakeContainer("comfyui")]
    assert (await host.do("inspect"))["engine"] == "podman"
    assert [one["name"] for one in (await host.do("list", None))["containers"]] == ["comfyui"]


async def test_unknown_operation_is_refused(host: Host) -> None:
    assert (await host.refusal("exec")).reason == "denied"


async def test_times_of_a_log_request_are_seconds_since_1970(host: Host) -> None:
    host.docker.containers = [FakeContainer("comfyui", lines=["out of memory"])]
    await host.do("logs", since="1970-01-01T00:01:40.75Z", until="1970-01-01T02:01:41.123456789+02:00")
    assert host.docker.requests[-1].endswith("&since=100.250000&until=101.123457")


@pytest.mark.parametrize(
    "times",
    [
        {"since": "x&follow=1"},
        {"until": ["a"]},
        {"since": "2026-01-01"},
        {"since": "2026-13-41T99:00:00Z"},
        {"until": "2026-11-30T09:00:00Z&tail=all"},
    ],
)
async def test_only_times_of_engines_reach_a_log_request(host: Host, times: dict[str, Any]) -> None:
    host.docker.containers = [FakeContainer("comfyui", lines=["out of memory"])]
    assert await host.do("logs", **times) == {"lines": ["out of memory"]}
    assert host.docker.requests[-1].endswith("tail=5")


# -- command -----------------------------------------------------------------------------------------------------------


def test_engines_of_the_system_of_a_user_and_of_a_drop_in() -> None:
    assert [one.path for one in engines_of("")] == ["/run/docker.sock", "/run/podman/podman.sock"]
    assert {one.path for one in engines_of("", "/run/user/7")} == {
        "/run/user/7/docker.sock",
        "/run/user/7/podman/podman.sock",
    }
    added = engines_of("podman=/run/user/7/podman/podman.sock lxd=/run/lxd.sock docker=relative podman")[2:]
    assert added == [Engine("podman", "/run/user/7/podman/podman.sock")]


@pytest.mark.parametrize("arguments", [[], ["--user"], ["start"]])
def test_command_requires_the_socket_of_systemd(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with pytest.raises(SystemExit) as end:
        containers.main(arguments)
    assert "socket" in str(end.value.code)
