"""A first configuration out of what was found: TOML with comments that say what was seen, and what is to be checked.

Nothing is made up: a figure or a name that was not seen is left out, so that ``gpumanctl config-check`` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from gpumand.config.presets import Preset
from gpumand.config.toml_writer import key, quoted
from gpumand.discovery.host import Host, Listener
from gpumand.discovery.matching import Finding
from gpumand.domain.consumer import GpuSettings
from gpumand.domain.wording import gib

MAX_COMMAND = 100
MOST_FOREIGN = 16
ROUTES = {"health", "busy", "load", "unload"}

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def starting_configuration(
    host: Host, found: Sequence[Finding], ports: Sequence[tuple[int, list[str]]], source: str, probed: dict[str, str]
) -> str:
    """The text of the file.

    Args:
        host: what was looked at.
        found: what was found on it.
        ports: default ports of presets at which somebody unrecognised listens.
        source: of figures about VRAM, as ``[gpu]`` names it.
        probed: by name of the consumer, what its health route answered; empty where nobody was asked.
    """
    known = [one for one in found if one.preset is not None]
    strange = [one for one in found if one.preset is None]
    names = _consumer_names(known)
    blocks = [
        _head(),
        _gpu(host, source),
        *([*_consumer(name, one, probed.get(name, ""))] for name, one in zip(names, known, strict=True)),
        _none(known),
        _strangers(strange),
        _likely(ports),
        _unseen(host),
    ]
    return "\n".join("\n".join(block) + "\n" for block in blocks if block)


def consumer_urls(found: Sequence[Finding]) -> dict[str, tuple[Preset, str]]:
    """By name of the consumer: its preset, and where it seems to be reached; without those of which that is unknown."""
    known = [one for one in found if one.preset is not None]
    places = [(name, one.preset, _url(one)) for name, one in zip(_consumer_names(known), known, strict=True)]
    return {name: (preset, url) for name, preset, url in places if preset is not None and url}


def _head() -> list[str]:
    return [
        "# Made by gpumanctl init of what it found on this host. Read it, correct it, and check it with:",
        "#   gpumanctl config-check FILE",
        "# Every key is explained in gpumand.toml(5), every preset by gpumanctl preset show NAME.",
    ]


def _gpu(host: Host, source: str) -> list[str]:
    # What is the default anyway is not set: no two files may set the same key, and this may be one of several.
    off = "# " if source == GpuSettings().source else ""
    lines = [f"{off}[gpu]", f"{off}source = {quoted(source)}"]
    for one in host.devices:
        total = gib(one.total_mib) if one.total_mib is not None else "unknown size"
        lines.append(f"# device {one.index}: {_clean(one.name)}, {total}")
    if host.driver_error:
        lines.append(f"# Nothing could be read just now: {_clean(host.driver_error)}")
    return lines


def _consumer_names(known: Sequence[Finding]) -> list[str]:
    """The preset's name, or the unit's where there are several of one kind."""
    presets = [one.preset.name if one.preset else "" for one in known]
    names: list[str] = []
    for finding, preset in zip(known, presets, strict=True):
        unit = _NO_NAME.sub("-", finding.unit.removesuffix(".service")).strip("-._")[:60]
        wanted = preset if presets.count(preset) == 1 else unit or preset
        number = sum(1 for name in names if name == wanted or name.startswith(f"{wanted}-"))
        names.append(wanted if wanted not in names else f"{wanted}-{number + 1}")
    return names


def _consumer(name: str, finding: Finding, answer: str) -> Iterator[str]:
    preset = finding.preset
    assert preset is not None
    off = "# " if _is_beyond_us(finding, preset) else ""
    yield from _comments(finding, preset, answer)
    yield f"{off}[consumers.{key(name)}]"
    yield f"{off}preset = {quoted(preset.name)}"
    if preset.about.model != "none":
        yield f'# model = "..."  {_about_model(preset)}'
    if finding.unit:
        yield f"{off}unit = {quoted(finding.unit)}"
    yield from (f"{off}{line}" if not line.startswith("#") else line for line in _url_lines(finding, preset))
    if preset.document.table["consumer"].get("key_header"):
        yield f'# key_file = "/etc/gpumand/keys/{name}"  # the key it asks for, in a file that gpumand can read'
    yield from (f"{off}{line}" if not line.startswith("#") else line for line in _footprint(finding))


def _is_beyond_us(finding: Finding, preset: Preset) -> bool:
    return preset.about.class_ == "unit-only" and not finding.unit


def _comments(finding: Finding, preset: Preset, answer: str) -> Iterator[str]:
    where = finding.unit or "a process in no service"
    title = f" ({_clean(finding.description)})" if finding.description not in ("", finding.unit) else ""
    yield f"# {where}{title} was recognised as {preset.about.title} by {finding.why}."
    for process in finding.processes[:1]:
        yield f"#   pid {process.pid}: {_clean(process.command or process.name)[:MAX_COMMAND]}"
    if answer:
        yield f"#   Asked how it is, it {_clean(answer)}."
    for need in preset.about.needs:
        yield f"# It must be started with: {need}."
    if any(process.unit.startswith("user@") for process in finding.processes):
        yield "# It is a user's own service, which that user's gpumand can start and stop: gpumanctl init --user."
    if _is_beyond_us(finding, preset):
        yield "# Only stopping a unit frees its memory, and it runs in none: name the unit that starts it."
    elif not finding.unit:
        yield "# It runs in no service, so only its unload route can free its memory."


def _about_model(preset: Preset) -> str:
    if preset.about.model == "required":
        return "# to be filled in: which of its models this consumer is"
    return "# which of its models this consumer is; without it only stopping its unit frees memory"


def _url_lines(finding: Finding, preset: Preset) -> Iterator[str]:
    default = preset.document.table["consumer"].get("url", "")
    url = _url(finding)
    others = sorted({one.port for one in finding.listeners} - {_port_of(url)})
    also = f"  # it listens at {', '.join(map(str, others))} too" if others else ""
    if url and url != default:
        yield f"url = {quoted(url)}{also}"
    elif not url and not default and ROUTES & preset.document.table["consumer"].keys():
        yield '# url = "http://127.0.0.1:PORT"  # to be filled in: where it listens could not be seen'


def _url(finding: Finding) -> str:
    """Where it is reached, as far as that was seen: at its preset's port, or its lowest."""
    if finding.preset is None or not finding.listeners:
        return ""
    usual = finding.preset.about.detect.ports
    main = {one.pid for one in finding.processes if one.is_main}

    def rank(one: Listener) -> tuple[object, ...]:
        return one.port not in usual, one.pid not in main, one.port, not _is_near(one)

    best = min(finding.listeners, key=rank)
    return f"http://{_host(best)}:{best.port}"


def _is_near(listener: Listener) -> bool:
    address = ip_address(listener.address)
    return address.is_loopback or address.is_unspecified


def _host(listener: Listener) -> str:
    address = ip_address(listener.address)
    if address.is_unspecified:
        return "127.0.0.1"
    return f"[{address}]" if address.version == 6 else str(address)


def _port_of(url: str) -> int:
    return urlsplit(url).port or 0


def _footprint(finding: Finding) -> Iterator[str]:
    mib = finding.used_mib
    if mib is None:
        yield "# vram_resident_mib = MIB  # to be filled in: what it needs while loaded, not seen just now;"
        yield "# vram_guess_mib = MIB     # or what it is taken to need until gpumand has measured it"
        return
    yield f"vram_resident_mib = {mib}  # what it held just now; is that all, and was its model loaded?"
    if len(finding.devices) > 1:
        yield f"# It holds memory on devices {', '.join(map(str, finding.devices))}; this is the largest part."


def _none(known: Sequence[Finding]) -> list[str]:
    if known:
        return []
    return [
        "# Nothing that runs was recognised. A service of your own is described like this:",
        "# [consumers.mine]",
        '# unit = "mine.service"',
        "# vram_resident_mib = 8192",
    ]


def _strangers(strange: Sequence[Finding]) -> list[str]:
    """What holds VRAM and is no consumer: offered where it is a service, else only told of."""
    if not strange:
        return []
    lines = ["# These hold VRAM too. gpumand works around them; a service becomes a consumer without the # before it."]
    for one in strange[:MOST_FOREIGN]:
        first = one.processes[0]
        size = gib(one.used_mib) if one.used_mib is not None else "an unknown amount"
        lines.append(
            f"#   {size} by {one.unit or 'no service'}: pid {first.pid}, {_clean(first.command or first.name)}"[:160]
        )
        if one.unit and one.used_mib is not None:
            name = _NO_NAME.sub("-", one.unit.removesuffix(".service")).strip("-._")[:60] or "mine"
            lines += [
                f"# [consumers.{key(name)}]",
                f"# unit = {quoted(one.unit)}",
                f"# vram_resident_mib = {one.used_mib}",
            ]
    return lines


def _likely(ports: Sequence[tuple[int, list[str]]]) -> list[str]:
    if not ports:
        return []
    lines = ["# Somebody listens at the usual port of these, and was not recognised otherwise:"]
    return lines + [f"#   {port}: {' or '.join(names)}" for port, names in ports]


def _unseen(host: Host) -> list[str]:
    lines = []
    if host.units_error:
        lines.append(f"# Units were not looked at: {_clean(host.units_error)}")
    if host.unseen:
        why = "not even by root" if host.as_root else "root sees more"
        lines.append(f"# Who listens at some ports could not be seen: {why}.")
    return lines


def _clean(text: str) -> str:
    """For a comment: one line, without what a terminal or TOML would take for more."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
