"""Reads the files of the swap of ports, and says what would be restored for each service. Blocking code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gpumand.cli.gateway_sockets import UNIT_FOLDER, socket_units
from gpumand.cli.swap_undo import texts
from gpumand.cli.swap_undo.record import MovedService, SwapRecord
from gpumand.cli.swap_undo.texts import Edited
from gpumand.gateway.config import GatewaySettings, ListenerSettings

AGAIN = "sudo gpumanctl init --undo"
Edit = tuple[Path, Callable[[str | None], str | None]]


@dataclass(slots=True)
class UndoPlan:
    """What would be restored.

    Attributes:
        services: the services that go back, in the order of the record.
        refused: services that stay, because a file was edited since, with the reason and the advice.
        files: new text of each file; None = it is removed. Files that have their former text already are left out.
        before: the present text of these files; None = there is no such file.
        sockets: socket units of the gateway that keep the old ports open.
        unit_folder: folder with the units of the administrator.
    """

    services: list[MovedService] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str | None] = field(default_factory=dict)
    before: dict[Path, str | None] = field(default_factory=dict)
    sockets: list[Path] = field(default_factory=list)
    unit_folder: Path = Path(UNIT_FOLDER)

    @property
    def hints(self) -> list[str]:
        """What the administrator has to do for services that a person has moved, one line each."""
        return [hint(one) for one in self.services if one.url is None or one.drop_in is None]

    @property
    def gateway_files(self) -> set[Path]:
        """The configuration of the gateway, whose listeners are closed first."""
        return {Path(one.listener.path) for one in self.services if one.listener is not None}


def plan_undo(record: SwapRecord, left_out: Iterable[str] = (), unit_folder: Path = Path(UNIT_FOLDER)) -> UndoPlan:
    """Plan the way back of all recorded services.

    Args:
        record: what the swap has written.
        left_out: names of consumers that stay behind the gateway.
        unit_folder: folder with the units of the administrator.
    """
    plan, skipped = UndoPlan(unit_folder=unit_folder), set(left_out)
    for one in record.services.values():
        if one.consumer not in skipped:
            _add(plan, one, unit_folder)
    plan.files = {path: text for path, text in plan.files.items() if text != plan.before[path]}
    return plan


def _add(plan: UndoPlan, service: MovedService, unit_folder: Path) -> None:
    """Add the files of a service; all of them, or none."""
    made: dict[Path, str | None] = {}
    socket = _socket(service, unit_folder)
    if socket is not None and not _is_generated(socket, service):
        advice = f"systemctl disable --now {socket.name}, remove the file, and repeat: {AGAIN}"
        plan.refused[service.consumer] = f"{socket}: it was edited since. Run: {advice}"
        return
    for path, edit in _edits(service):
        try:
            made[path] = edit(_present(plan, path))
        except (Edited, OSError, UnicodeDecodeError) as error:
            reason = error if isinstance(error, Edited) else f"cannot be read: {error}"
            plan.refused[service.consumer] = f"{path}: {reason}. {_advice(service, path)}"
            return
    plan.services.append(service)
    plan.files |= made
    plan.sockets += [socket] if socket is not None else []


def _edits(service: MovedService) -> list[Edit]:
    """The inverse of each edit of a service, with its file."""
    edits: list[Edit] = []
    if (listener := service.listener) is not None:
        edits.append((Path(listener.path), lambda text: texts.without_listener(text, service.consumer, listener)))
    if (url := service.url) is not None:
        edits.append((Path(url.path), lambda text: texts.with_former_url(text, service.consumer, url)))
    if (drop_in := service.drop_in) is not None:
        edits.append((Path(drop_in.path), lambda text: texts.without_drop_in(text, drop_in)))
    return edits


def hint(service: MovedService) -> str:
    """What the administrator has to do for a service whose url, or whose server, the undo does not change."""
    url = f"set its url in /etc/gpumand to http://127.0.0.1:{service.old_port}, and run: sudo gpumanctl reload"
    if service.drop_in is not None:
        return f"{service.consumer}: {url}"
    return f"{service.consumer}: you have moved it yourself. Let it use port {service.old_port} again, {url}"


def _advice(service: MovedService, path: Path) -> str:
    """What an administrator does about a file that was edited."""
    if service.drop_in is not None and str(path) == service.drop_in.path:
        if not service.drop_in.written:  # Without the file, a service that has no record would not be found again.
            return f"Move your own lines to another drop-in, keep the first line and those with the port: {AGAIN}"
        return f"Move your own lines to another drop-in, remove this file, and repeat: {AGAIN}"
    if service.url is not None and str(path) == service.url.path:
        own = f'url = "http://127.0.0.1:{service.old_port}"' if service.url.before is None else service.url.before
        return f"Write the former line, {own.strip()}, and repeat: {AGAIN}"
    return f"Remove the table, with the lines that you added, and repeat: {AGAIN}"


def _present(plan: UndoPlan, path: Path) -> str | None:
    """The text of a file as the plan would leave it so far."""
    if path not in plan.before:
        try:
            plan.before[path] = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            plan.before[path] = None
    return plan.files.get(path, plan.before[path])


def _socket(service: MovedService, folder: Path) -> Path | None:
    """The socket unit of the listener that an administrator has made with ``gpumanctl gateway sockets``."""
    path = folder / f"gpumand-gateway-{service.consumer}.socket"
    return path if service.listener is not None and path.exists() else None


def _is_generated(path: Path, service: MovedService) -> bool:
    """Whether a socket unit is the one that ``gpumanctl gateway sockets`` writes, so that it may be removed."""
    addresses = (f"127.0.0.1:{service.listener.port}",) if service.listener else ()
    settings = GatewaySettings(listeners={service.consumer: ListenerSettings(name=service.consumer, listen=addresses)})
    try:
        return path.read_text(encoding="utf-8") == socket_units(settings)[path.name]
    except (OSError, UnicodeDecodeError):
        return False
