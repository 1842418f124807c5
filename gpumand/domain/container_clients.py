"""Command lines of container programs: the client of a unit, and the monitor of a container. No I/O.

A unit whose ExecStart is ``docker run``, ``podman run`` or ``docker compose up`` holds no VRAM itself. What its command
line says about the container (name, file with the id, published ports) connects the two.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

CLIENTS = frozenset({"docker", "docker-compose", "podman", "podman-compose", "nerdctl", "podman-remote"})
"""Programs that start containers."""

MONITORS = ("conmon", "containerd-shim")
"""Programs that are the parent of a container's first process; names of containerd's shims continue."""

MAX_SCRIPT = 16384
"""Length to which a shell script in a command line is read."""

_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
_PREFIXES = frozenset({"exec", "sudo", "env", "nice", "then", "do", "if", "!"})
_PYTHON = re.compile(r"python[0-9.]*")
_RUN, _START, _COMPOSE = "run", "start", "compose"
_GLOBAL_VALUES_TEXT = """
-H --host -c --context --config -l --log-level --tlscacert --tlscert --tlskey --url --connection --identity --root
--runroot --storage-driver --storage-opt --runtime --cgroup-manager --tmpdir --namespace -n --address -a
"""
_GLOBAL_VALUES = frozenset(_GLOBAL_VALUES_TEXT.split())
"""Options before the command that have a value; nerdctl's and podman's too."""

_FLAGS_TEXT = """
--rm --detach --interactive --tty --init --privileged --publish-all --read-only --no-healthcheck --quiet --replace
--oom-kill-disable --sig-proxy --disable-content-trust --tls-verify --http-proxy --no-hosts --rmi --env-host
--attach-stdin --help --read-only-tmpfs --passwd --no-hostname
"""
_FLAGS = frozenset(_FLAGS_TEXT.split())
"""Long options of ``run`` without a value; podman's too."""

_SHORT_FLAGS = re.compile(r"-[ditPq]+")
_SHORT_WITH_VALUE = re.compile(r"-[ditPq]*[apevwhlmucn]")
_PORT = re.compile(r"(?:(?:\[[^\]]*\]|[0-9.]+):)?([0-9]{1,5}):[0-9]{1,5}(?:/tcp)?")


@dataclass(frozen=True, slots=True)
class ContainerClient:
    """What the command line of a container client says.

    Attributes:
        action: "run", "start" or "compose".
        names: names of the containers that it runs, as far as they are given.
        cid_file: file into which it writes the id of the container; "" without one.
        host_ports: TCP ports of the host that it publishes.
        image: the image of ``run``; "" otherwise.
    """

    action: str
    names: tuple[str, ...] = ()
    cid_file: str = ""
    host_ports: tuple[int, ...] = ()
    image: str = ""


@dataclass(frozen=True, slots=True)
class ContainerMonitor:
    """What the command line of ``conmon`` says: ``-c ID … -n NAME``."""

    id: str
    name: str


def parse_client(words: Sequence[str]) -> ContainerClient | None:
    """Read a command line; None where it starts no container."""
    words = list(words)
    if words and _PYTHON.fullmatch(_program(words[0])):
        words = words[1:]
    if not words or _program(words[0]) not in CLIENTS:
        return None
    program, rest = _program(words[0]), _after_options(words[1:], _GLOBAL_VALUES)
    if program in ("docker-compose", "podman-compose") or rest[:1] == [_COMPOSE]:
        return ContainerClient(_COMPOSE)
    if rest[:1] == ["container"]:
        rest = rest[1:]
    if rest[:1] == [_START]:
        return ContainerClient(_START, tuple(word for word in rest[1:] if not word.startswith("-"))[:16])
    return _parse_run(rest[1:]) if rest[:1] == [_RUN] else None


def clients_in(words: Sequence[str]) -> tuple[ContainerClient, ...]:
    """The container clients of a command line, also within the command of a shell (``sh -c "exec docker run …"``)."""
    client = parse_client(words)
    if client is not None or not words or _program(words[0]) not in _SHELLS or "-c" not in words[1:-1]:
        return () if client is None else (client,)
    script = words[words.index("-c") + 1][:MAX_SCRIPT]
    found = (parse_client(command) for command in _commands_of(script))
    return tuple(one for one in found if one is not None)


def _commands_of(script: str) -> list[list[str]]:
    """The simple commands of a shell script, without words before the program such as ``exec`` and ``sudo``."""
    lexer = shlex.shlex(script.replace("\n", ";"), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word and set(word) <= set("();|&"):
                commands.append([])
            elif commands[-1] or (word not in _PREFIXES and "=" not in word):
                commands[-1].append(word)
    except ValueError:  # an open quotation mark
        return []
    return commands


def parse_monitor(words: Sequence[str]) -> ContainerMonitor | None:
    """Read the command line of ``conmon``; None for any other program."""
    if not words or _program(words[0]) != "conmon":
        return None
    values = {option: _value_of(words, *option) for option in (("-c", "--cid"), ("-n", "--name"))}
    found_id, name = values.values()
    return ContainerMonitor(found_id, name) if found_id else None


def parse_proxy(words: Sequence[str]) -> tuple[int, str] | None:
    """The host port and the container's address in the command line of ``docker-proxy``, for TCP; else None."""
    if not words or _program(words[0]) != "docker-proxy" or _value_of(words, "-proto") != "tcp":
        return None
    port, address = _value_of(words, "-host-port"), _value_of(words, "-container-ip")
    return (int(port), address) if port.isascii() and port.isdigit() and len(port) <= 5 and address else None


def _parse_run(words: Sequence[str]) -> ContainerClient:
    names, ports, cid_file, image = list[str](), list[int](), "", ""
    for option, value in _options(words):
        if option == "--name" and value:
            names.append(value)
        elif option == "--cidfile":
            cid_file = value
        elif option in ("--publish", "-p") and (match := _PORT.fullmatch(value)):
            ports.append(int(match[1]))
        elif not option:
            image = value
    return ContainerClient(_RUN, tuple(names[-1:]), cid_file, tuple(ports[:64]), image)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of ``run`` with their values, and at last ("", IMAGE); what follows is the container's command."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            yield "", word
            return
        option, separator, value = word.partition("=")
        if word.startswith("--"):
            takes_next = not separator and option not in _FLAGS
        elif _SHORT_FLAGS.fullmatch(word):
            continue
        else:
            takes_next = bool(_SHORT_WITH_VALUE.fullmatch(word))
            option, value = (f"-{word[-1]}", "") if takes_next else (word[:2], word[2:].removeprefix("="))
        if takes_next:
            value = rest.pop(0) if rest else ""
        yield option, value


def _after_options(words: Sequence[str], with_value: frozenset[str]) -> list[str]:
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in with_value and rest:
            rest.pop(0)
    return rest


def _value_of(words: Sequence[str], *options: str) -> str:
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word in options:
            return following
        option, separator, value = word.partition("=")
        if separator and option in options:
            return value
    return ""


def _program(path: str) -> str:
    return PurePosixPath(path).name
