"""The record of the swap of ports: for each service, what was written and what was there before.

It belongs to root and lies in a folder of its own: the folder of the daemon's state belongs to the daemon's user, and
root restores files from this record.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpumand.cli.errors import ExitCode, Failure
from gpumand.config.validators import CONSUMER_NAME, MAX_PORT, unit_name
from gpumand.config.value_types import InvalidValue
from gpumand.config.whole_file import write_whole

RECORD = Path("/var/lib/gpumand-setup/gateway-swap.json")
VERSION = 1
MAX_BYTES = 4 << 20
GATEWAY_UNITS = ("gpumand-gateway.socket", "gpumand-gateway.service")
"""The units that the swap enables, and no others: root disables what the record names."""


@dataclass(frozen=True, slots=True)
class DropIn:
    """The drop-in of a unit.

    Attributes:
        path: the file.
        written: its text.
        before: the text that it replaced; None if there was no file.
        made_folder: the folder was created for it.
    """

    path: str
    written: str
    before: str | None = None
    made_folder: bool = False


@dataclass(frozen=True, slots=True)
class UrlLine:
    """The line with the url of a consumer.

    Attributes:
        path: the file of gpumand's configuration.
        written: the line.
        before: the line that it replaced; None if it was added.
    """

    path: str
    written: str
    before: str | None = None


@dataclass(frozen=True, slots=True)
class ListenerTable:
    """The table of a listener of the gateway.

    Attributes:
        path: the configuration of the gateway.
        written: the text that was added to it.
        port: where it listens.
        made_file: there was no file before.
    """

    path: str
    written: str
    port: int
    made_file: bool = False


@dataclass(frozen=True, slots=True)
class MovedService:
    """One service that got behind the gateway.

    Attributes:
        consumer: its name.
        unit: its unit; "" without one.
        old_port: where it listened before, and the gateway listens now.
        new_port: where it listens now.
        listener: the listener of the gateway; None if none was added.
        drop_in: the drop-in that moved it; None if a person moved it.
        url: the line of its url; None if a person set it.
    """

    consumer: str
    unit: str
    old_port: int
    new_port: int
    listener: ListenerTable | None = None
    drop_in: DropIn | None = None
    url: UrlLine | None = None


@dataclass(frozen=True, slots=True)
class SwapRecord:
    """All services that got behind the gateway and are still there.

    Attributes:
        services: by name of the consumer.
        enabled: units of the gateway that were not enabled before.
    """

    services: Mapping[str, MovedService]
    enabled: tuple[str, ...] = ()

    def with_moves(self, moves: Iterable[MovedService], enabled: Iterable[str] = ()) -> SwapRecord:
        """The record with further services and enabled units; what a service was before its first move is kept."""
        services = dict(self.services)
        for one in moves:
            services[one.consumer] = _merged(services.get(one.consumer), one)
        return SwapRecord(services, tuple(dict.fromkeys((*self.enabled, *enabled))))

    def without(self, consumer: str) -> SwapRecord:
        """The record without a service."""
        return replace(self, services={name: one for name, one in self.services.items() if name != consumer})


def read_record(path: Path) -> SwapRecord:
    """Read the record; an empty one if there is no file. Raises Failure if it cannot be used."""
    try:
        content = _content(path)
    except FileNotFoundError:
        return SwapRecord({})
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"cannot read {path}: {error.strerror}. Run it as root") from None
    try:
        return _record_of(json.loads(content))
    except (InvalidValue, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        advice = "Rename it and repeat this command, which then finds the services by their drop-ins"
        raise Failure(ExitCode.FAILURE, f"{path}, the record of moved services, is damaged. {advice}") from None


def _content(path: Path) -> bytes:
    """The record as bytes. Raises OSError, and Failure if another user could have written it."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.getuid()) or found.st_mode & 0o022:
            repair = f"sudo chown root {path}; sudo chmod 600 {path}"
            what = f"{path}, the record of moved services, is not a file that only root can write"
            raise Failure(ExitCode.FAILURE, f"{what}. Check its content, then run: {repair}")
        return file.read(MAX_BYTES)


def write_record(path: Path, record: SwapRecord) -> None:
    """Write the record, or remove it if nothing is left in it. Raises OSError."""
    if not record.services and not record.enabled:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
        return
    path.parent.mkdir(0o755, parents=True, exist_ok=True)
    document = {
        "version": VERSION,
        "enabled": list(record.enabled),
        "services": [asdict(one) for one in record.services.values()],
    }
    # A replaced drop-in may have contained secrets.
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode(), lambda file: os.fchmod(file, 0o600))


def _merged(old: MovedService | None, new: MovedService) -> MovedService:
    """A further move of a service whose earlier one is still in effect, wholly or in part."""
    if old is None:
        return new
    drop_in, url = _with_first_text(old.drop_in, new.drop_in), _with_first_line(old.url, new.url)
    # An interrupted move is repeated from the port that its first part has set already.
    is_continued = (drop_in, url) != (new.drop_in, new.url)
    port = old.old_port if is_continued else new.old_port
    return replace(new, old_port=port, listener=_earlier(old.listener, new.listener), drop_in=drop_in, url=url)


def _earlier(old: ListenerTable | None, new: ListenerTable | None) -> ListenerTable | None:
    if old is None or new is None:
        return new or old
    return replace(new, made_file=new.made_file or old.made_file)


def _with_first_text(old: DropIn | None, new: DropIn | None) -> DropIn | None:
    if old is None or new is None:
        return new or old
    is_same = new.path == old.path and new.before == old.written
    return replace(new, before=old.before, made_folder=old.made_folder) if is_same else new


def _with_first_line(old: UrlLine | None, new: UrlLine | None) -> UrlLine | None:
    if old is None or new is None:
        return new or old
    return replace(new, before=old.before) if new.path == old.path and new.before == old.written else new


def _record_of(document: dict[str, Any]) -> SwapRecord:
    if document["version"] != VERSION:
        raise ValueError("another version")
    services = [_service_of(one) for one in document["services"]]
    return SwapRecord({one.consumer: one for one in services}, _enabled(document["enabled"]))


def _enabled(raw: object) -> tuple[str, ...]:
    """Units of the gateway. Raises ValueError for anything else."""
    if not isinstance(raw, list) or any(one not in GATEWAY_UNITS for one in raw):
        raise ValueError("not units of the gateway")
    return tuple(raw)


def _service_of(raw: dict[str, Any]) -> MovedService:
    listener, drop_in, url = raw.pop("listener"), raw.pop("drop_in"), raw.pop("url")
    made = MovedService(
        str(raw.pop("consumer")),
        str(raw.pop("unit")),
        _port(raw.pop("old_port")),
        _port(raw.pop("new_port")),
        listener=ListenerTable(**_checked(listener)) if listener else None,
        drop_in=DropIn(**_checked(drop_in)) if drop_in else None,
        url=UrlLine(**_checked(url)) if url else None,
    )
    _check_names(made)
    return made


def _checked(raw: dict[str, Any]) -> dict[str, Any]:
    """A table whose values have the types of their names. Raises TypeError or ValueError for anything else."""
    for name, value in raw.items():
        if name == "port":
            _port(value)
            continue
        expected = bool if name in ("made_folder", "made_file") else str
        if not (isinstance(value, expected) or (name == "before" and value is None)):
            raise TypeError(f"{name} has another type")
    return raw


def _port(value: object) -> int:
    """A port; 0 = unknown. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_PORT:
        raise ValueError("not a port")
    return value


def _check_names(one: MovedService) -> None:
    """Raises ValueError for a unit or a file that the swap does not write: root restarts and removes what is here."""
    if not CONSUMER_NAME.fullmatch(one.consumer) or (one.unit and unit_name(one.unit).startswith("-")):
        raise ValueError("not a name")
    names = [Path(made.path).name.endswith(".toml") for made in (one.listener, one.url) if made is not None]
    paths = [Path(made.path) for made in (one.listener, one.url, one.drop_in) if made is not None]
    if one.drop_in is not None:
        names.append(Path(one.drop_in.path).parts[-2:] == (f"{one.unit}.d", "gpumand-gateway.conf"))
    if not all(names) or not all(path.is_absolute() and ".." not in path.parts for path in paths):
        raise ValueError("not a file of the swap")
