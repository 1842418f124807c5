"""Writes the starter configuration of ``gpumanctl init``: TOML with comments on what was found and what to check.

Nothing is guessed: a size or a name that was not observed is left out, so that ``gpumanctl config-check`` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import count
from urllib.parse import urlsplit

from gpumand.config.presets import Preset
from gpumand.config.toml_writer import toml_key, toml_string
from gpumand.discovery.container_lines import container_comments, container_keys, eviction_key
from gpumand.discovery.found_footprint import footprint_lines
from gpumand.discovery.found_place import place, place_comments
from gpumand.discovery.host import Host, Listener
from gpumand.discovery.matching import Candidate
from gpumand.discovery.missing_keys import needs_url
from gpumand.discovery.server_models import ServerModels
from gpumand.domain.device import error_word
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.domain.unread_devices import NO_SOURCE_WORDS
from gpumand.domain.wording import format_mib

MAX_COMMAND = 100
"""Maximum length of a command line in a comment, in characters."""

MAX_UNRECOGNISED = 16
"""Maximum number of unrecognised processes that are listed."""

LOADED, NOT_LOADED = "ok, model loaded", "ok, model not loaded"
"""Answers of health routes, as text, that say whether the model is loaded."""

MAX_OTHERS = 8
"""Maximum number of further models that a comment lists."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def starting_configuration(
    host: Host,
    found: Sequence[Candidate],
    ports: Sequence[tuple[int, list[str]]],
    sources: Sequence[str],
    probed: Mapping[str, str],
    models: Mapping[str, ServerModels] | None = None,
) -> str:
    """The text of the configuration file.

    Args:
        host: the result of the host scan.
        found: the candidates found by it.
        ports: default ports of presets at which an unrecognised process listens, with the presets' names.
        sources: sources of VRAM readings, as in ``[gpu] source``; () leaves the default, which finds them itself.
        probed: answers of health routes as text, by consumer name; empty when they were not called.
        models: the models that the servers list, by consumer name; None when they were not asked.
    """
    models = models or {}
    known = [one for one in found if one.preset is not None]
    unrecognised = [one for one in found if one.preset is None]
    names = _consumer_names(known)
    listening = {one.port for one in host.listeners}
    blocks = [
        _header(),
        _gpu(host, sources),
        *(
            [*_consumer(name, one, probed.get(name, ""), models.get(name, ServerModels()), listening)]
            for name, one in zip(names, known, strict=True)
        ),
        _no_candidates(known),
        _unrecognised_processes(unrecognised),
        _unidentified_ports(ports),
        _scan_limits(host),
    ]
    return "\n".join("\n".join(block) + "\n" for block in blocks if block)


def consumer_tables(
    host: Host, found: Sequence[Candidate], models: Mapping[str, ServerModels], taken: Collection[str] = ()
) -> dict[str, tuple[Candidate, str]]:
    """The table of each recognised service, as in ``starting_configuration``: consumer name -> candidate and text.

    Args:
        host: the result of the host scan.
        found: the candidates found by it.
        models: the models that the servers list, by the name that the consumer has without ``taken``.
        taken: names of consumers that exist already.
    """
    known = [one for one in found if one.preset is not None]
    listening = {one.port for one in host.listeners}
    names = zip(_consumer_names(known), _consumer_names(known, taken), known, strict=True)
    return {
        name: (one, "\n".join(_consumer(name, one, "", models.get(plain, ServerModels()), listening)) + "\n")
        for plain, name, one in names
    }


def consumer_urls(found: Sequence[Candidate]) -> dict[str, tuple[Preset, str]]:
    """Consumer name -> preset and probable URL; candidates without a known URL are left out."""
    return named_places(found, [probable_url(one) for one in found])


def named_places(found: Sequence[Candidate], urls: Sequence[str]) -> dict[str, tuple[Preset, str]]:
    """Consumer name -> preset and URL; candidates without a preset or a URL are left out."""
    known = [(one, url) for one, url in zip(found, urls, strict=True) if one.preset is not None]
    names = _consumer_names([one for one, _ in known])
    named = zip(names, known, strict=True)
    return {name: (one.preset, url) for name, (one, url) in named if one.preset is not None and url}


def question_urls(host: Host, found: Sequence[Candidate]) -> list[str]:
    """The URL of each candidate, at which it can be asked; "" for one without a known URL.

    A caller that may not see the owner of a port asks at the preset's default port, if something listens there.
    """
    hidden_ports = {one.port for one in host.listeners if not one.pid}

    def url(candidate: Candidate) -> str:
        default = candidate.preset.document.table["consumer"].get("url", "") if candidate.preset else ""
        return probable_url(candidate) or (default if _port_of(default) in hidden_ports else "")

    return [url(one) for one in found]


def _header() -> list[str]:
    return [
        "# Generated by gpumanctl init from the services on this host. Review and edit it, then check it with:",
        "#   gpumanctl config-check FILE",
        "# The keys are described in gpumand.toml(5). Show a preset with: gpumanctl preset show NAME",
    ]


def _gpu(host: Host, sources: Sequence[str]) -> list[str]:
    # A default is commented out: two files must not set the same key, and this may be one of several files.
    default = GpuSettings().sources
    prefix = "# " if tuple(sources) in ((), default) else ""
    listed = ", ".join(toml_string(one) for one in sources or default)
    value = f"[{listed}]" if len(sources) > 1 else listed
    lines = [f"{prefix}[gpu]", f"{prefix}source = {value}"]
    for one in host.devices:
        total = format_mib(one.total_mib) if one.total_mib is not None else "unknown size"
        integrated = ", integrated: only for consumers with this device" if one.integrated else ""
        lines.append(f"# device {one.index}: {_one_line(one.name)}, {total}{integrated}")
    if host.driver_error:
        lines.append(f"# The GPUs could not be read: {_one_line(host.driver_error)}")
        if error_word(host.driver_error) in NO_SOURCE_WORDS:
            lines.append("# total_mib = MIB  # size of your GPU; without it, loads are not checked against real memory")
    return lines


def _consumer_names(known: Sequence[Candidate], taken: Collection[str] = ()) -> list[str]:
    """A unique name for each candidate: the preset's, or that of unit or container when a preset occurs twice."""
    presets = [one.preset.name if one.preset else "" for one in known]
    names: list[str] = []
    for candidate, preset in zip(known, presets, strict=True):
        container = candidate.container.name if candidate.container else ""
        unit = _NOT_IN_NAMES.sub("-", candidate.unit.removesuffix(".service") or container).strip("-._")[:60]
        wanted = preset if presets.count(preset) == 1 else unit or preset
        used = {*names, *taken}
        numbered = (f"{wanted}-{number}" for number in count(2))
        names.append(wanted if wanted not in used else next(name for name in numbered if name not in used))
    return names


def _consumer(
    name: str, candidate: Candidate, answer: str, models: ServerModels, listening: Collection[int]
) -> Iterator[str]:
    preset = candidate.preset
    assert preset is not None
    prefix = "# " if _has_no_eviction_method(candidate, preset) else ""
    yield from _comments(candidate, preset, answer)
    if candidate.container is not None:
        yield from container_comments(candidate.container, listening)
    keys = [f"[consumers.{toml_key(name)}]", f"preset = {toml_string(preset.name)}", *_model_lines(preset, models)]
    if candidate.unit:
        keys.append(f"unit = {toml_string(candidate.unit)}")
    if candidate.container is not None:
        keys += [*container_keys(candidate.container), *eviction_key(candidate.container)]
    keys += _url_lines(candidate, preset)
    if preset.document.table["consumer"].get("key_header"):
        keys.append(
            f'# key_file = "/etc/gpumand/keys/{name}"  # API key of the server, in a file that gpumand can read'
        )
    keys += footprint_lines(candidate, preset, _is_loaded(answer, models), models)
    yield from (f"{prefix}{line}" if not line.startswith("#") else line for line in keys)


def _is_loaded(answer: str, models: ServerModels) -> bool | None:
    """Whether the server says that a model is loaded; None when it does not say."""
    if models.loaded is not None:
        return bool(models.loaded)
    return {LOADED: True, NOT_LOADED: False}.get(answer)


def _model_lines(preset: Preset, models: ServerModels) -> Iterator[str]:
    if preset.about.model == "none":
        return
    if not models.chosen:
        why = f"; the server did not list its models: {_one_line(models.error)[:MAX_COMMAND]}" if models.error else ""
        yield f'# model = "..."  {_about_model(preset)}{why}'
        return
    others = [name for name in dict.fromkeys((*(models.loaded or ()), *models.names)) if name != models.chosen]
    if models.loaded:
        why = "loaded now"
    else:
        why = "guessed: the first that the server lists" if others else "the only model of the server"
    yield f"model = {toml_string(models.chosen)}  # {why}"
    if others:
        listed = _one_line(", ".join(others[:MAX_OTHERS]))
        more = f" and {len(others) - MAX_OTHERS} more" if len(others) > MAX_OTHERS else ""
        yield f"# Other models of the server, each a consumer of its own: {listed}{more}"


def _has_no_eviction_method(candidate: Candidate, preset: Preset) -> bool:
    is_stoppable = candidate.container is not None and candidate.container.is_controllable
    return preset.about.class_ == "unit-only" and not candidate.unit and not is_stoppable


def _comments(candidate: Candidate, preset: Preset, answer: str) -> Iterator[str]:
    container = candidate.container
    title = f" ({_one_line(candidate.description)})" if candidate.description not in ("", candidate.unit) else ""
    yield f"# {place(candidate)}{title} was recognised as {preset.about.title} by {candidate.why}."
    for process in candidate.processes[:1]:
        yield f"#   pid {process.pid}: {_one_line(process.command or process.name)[:MAX_COMMAND]}"
    if answer:
        yield f"#   Health check: {_one_line(answer)}."
    if candidate.guess:
        yield f"# Guessed: {_one_line(candidate.guess)}"
    for need in preset.about.needs:
        yield f"# Start it with: {need}."
    yield from place_comments(candidate)
    if container is not None and container.image:
        yield f"#   image {_one_line(container.image)[:MAX_COMMAND]}"
    if _has_no_eviction_method(candidate, preset):
        yield "# Only stopping a unit frees its memory, but it runs in none: set unit to the unit that starts it."
    elif not candidate.unit and container is None:
        yield "# It runs outside any service, so only its unload route can free its memory."


ADDRESS_ADVICE = (
    "It is at no loopback address. Permit the address in the unit of the system's gpumand, and restart it: "
    "systemctl edit gpumand.service, with [Service] IPAddressAllow="
)


def _about_model(preset: Preset) -> str:
    if preset.about.model == "required":
        return "# required: the model of this consumer"
    return "# the model of this consumer; without it, only stopping its unit frees memory"


def _url_lines(candidate: Candidate, preset: Preset) -> Iterator[str]:
    default = preset.document.table["consumer"].get("url", "")
    url = probable_url(candidate)
    others = sorted({one.port for one in candidate.listeners} - {_port_of(url)})
    also = f"  # it also listens at {', '.join(map(str, others))}" if others else ""
    if url and url != default:
        yield f"url = {toml_string(url)}{also}"
        if (host := urlsplit(url).hostname) and not ip_address(host).is_loopback:
            yield f"# {ADDRESS_ADVICE}{host}"
    elif not url and needs_url(preset):
        yield '# url = "http://127.0.0.1:PORT"  # required: its port could not be determined'


def probable_url(candidate: Candidate) -> str:
    """Its probable URL: the preset's default port, else a port of the main process, else its lowest; "" if unknown."""
    if candidate.preset is None or not candidate.listeners:
        return ""
    usual = candidate.preset.about.detect.ports
    main = {one.pid for one in candidate.processes if one.is_main}

    published = candidate.container.ports if candidate.container else ()
    inner = {one.host_port: one.container_port for one in published}

    def preference(one: Listener) -> tuple[object, ...]:
        return inner.get(one.port, one.port) not in usual, one.pid not in main, one.port, not _is_local(one)

    best = min(candidate.listeners, key=preference)
    return f"http://{_url_host(best)}:{best.port}"


def _is_local(listener: Listener) -> bool:
    address = ip_address(listener.address)
    return address.is_loopback or address.is_unspecified


def _url_host(listener: Listener) -> str:
    address = ip_address(listener.address)
    if address.is_unspecified:
        return "127.0.0.1"
    return f"[{address}]" if address.version == 6 else str(address)


def _port_of(url: str) -> int:
    return urlsplit(url).port or 0


def _no_candidates(known: Sequence[Candidate]) -> list[str]:
    if known:
        return []
    return [
        "# No running service was recognised. Configure a service of your own like this:",
        "# [consumers.mine]",
        '# unit = "mine.service"',
        "# vram_resident_mib = 8192",
    ]


def _unrecognised_processes(unrecognised: Sequence[Candidate]) -> list[str]:
    """Unrecognised processes that hold VRAM: a commented-out consumer for a service, else only a comment."""
    if not unrecognised:
        return []
    lines = ["# Other processes that hold VRAM. gpumand never evicts them. To make a service a consumer, remove its #."]
    for one in unrecognised[:MAX_UNRECOGNISED]:
        first = one.processes[0]
        size = format_mib(one.used_mib) if one.used_mib is not None else "an unknown amount"
        where = one.unit or (one.container.title if one.container else "no service")
        lines.append(f"#   {size} in {where}: pid {first.pid}, {_one_line(first.command or first.name)}"[:160])
        if (one.unit or one.container) and one.used_mib is not None:
            lines += _unrecognised_consumer(one)
    return lines


def _unrecognised_consumer(one: Candidate) -> Iterator[str]:
    """A commented-out consumer for a service or a container without a preset."""
    container = one.container
    wanted = one.unit.removesuffix(".service") or (container.name if container else "")
    yield f"# [consumers.{toml_key(_NOT_IN_NAMES.sub('-', wanted).strip('-._')[:60] or 'mine')}]"
    if one.unit:
        yield f"# unit = {toml_string(one.unit)}"
    if container is not None:
        yield from (f"# {line}" for line in container_keys(container))
    yield f"# vram_resident_mib = {one.used_mib}"


def _unidentified_ports(ports: Sequence[tuple[int, list[str]]]) -> list[str]:
    if not ports:
        return []
    lines = ["# Unrecognised processes listen at the default ports of these presets:"]
    return lines + [f"#   {port}: {' or '.join(names)}" for port, names in ports]


def _scan_limits(host: Host) -> list[str]:
    lines = []
    if host.units_error:
        lines.append(f"# The units could not be scanned: {_one_line(host.units_error)}")
    if host.engines_error:
        lines.append(f"# Containers could not be scanned completely: {_one_line(host.engines_error)}")
    if host.has_hidden_ports:
        advice = "not even as root" if host.is_root else "run gpumanctl init as root to identify them"
        lines.append(f"# The processes that listen at some ports could not be identified: {advice}.")
    return lines


def _one_line(text: str) -> str:
    """One printable line for a comment; the text of other processes must not end the comment or control a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
