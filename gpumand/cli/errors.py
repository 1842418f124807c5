"""Every ending that is not a success: its exit code, and one line that says what is probably wrong."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.bus.names import BUS_NAME
from gpumand.cli.options import GlobalOptions
from gpumand.client.errors import LEFT, NOBODY, NOT_STARTED, UNSPOKEN, Mismatch
from gpumand.domain.errors import FREEDESKTOP, OWN, InvalidArgs
from gpumand.version import VERSION

__all__ = ["ExitCode", "Failure", "Mismatch", "NoBus", "hint_for", "interpret", "not_started"]


class ExitCode(IntEnum):
    """What the shell is told."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_RUNNING = 3
    NO_SUCH = 4
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class Failure(Exception):
    """An ending with a line for people.

    Attributes:
        code: exit code.
        message: one line; "" for endings that need no words.
    """

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())


class NoBus(Exception):
    """There is no bus where we looked for one; the message says why."""


def interpret(error: Exception, options: GlobalOptions) -> Failure | None:
    """What an exception means for whoever typed the command, or None where it is a fault of our own."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, BusError) and not isinstance(error, BusTimeout):
        return _answered(error, options)
    line = _trouble(error, options)
    return Failure(ExitCode.FAILURE, line) if line else None


def _trouble(error: Exception, options: GlobalOptions) -> str:
    """The line for what is neither an answer nor our own; "" for anything else."""
    if isinstance(error, BusTimeout):
        return f"gpumand did not answer in time ({error.message}); {_look(options)}"
    if isinstance(error, NoBus):
        return _no_bus(str(error), options)
    if isinstance(error, BusLost):
        return f"the connection to the bus was lost: {error}"
    if isinstance(error, InvalidArgs):
        return error.message
    return f"{_mismatch(options)} ({error})" if isinstance(error, Mismatch) else ""


def _answered(error: BusError, options: GlobalOptions) -> Failure:
    """An error that came over the bus: from the daemon, or from the bus for want of one."""
    teller = _TELLERS.get(error.name)
    if teller is not None:
        return teller(error, options)
    if error.name.startswith(OWN) or error.name == FREEDESKTOP + "InvalidArgs":
        code = ExitCode.NO_SUCH if error.name in _NO_SUCH else ExitCode.FAILURE
        return Failure(code, error.message + hint_for(error.name, error.message))
    return Failure(ExitCode.FAILURE, f"{error.message} ({error.name})")


def hint_for(name: str, message: str) -> str:
    """What to look at next, unless the message says what was meant."""
    return "" if "did you mean" in message else _HINTS.get(name, "")


_NO_SUCH = {OWN + "NoSuchConsumer", OWN + "NoSuchLease"}

_HINTS = {
    OWN + "NoSuchConsumer": "; gpumanctl list shows what is configured",
    OWN + "NoSuchLease": "; gpumanctl status shows the leases that stand",
    OWN + "NoSuchDevice": "; gpumanctl status shows the GPUs",
    OWN + "TimedOut": "; --timeout 5min or --wait waits longer",
}


def _not_running(_: BusError, options: GlobalOptions) -> Failure:
    if options.bus_address:
        start = f"start it with: gpumand --bus-address '{options.bus_address}'"
    else:
        start = f"start it with: systemctl {'--user ' if options.user else ''}start gpumand"
    return Failure(ExitCode.NOT_RUNNING, f"gpumand is not running (nobody owns {BUS_NAME} on {_bus(options)}); {start}")


def _activation_failed(error: BusError, options: GlobalOptions) -> Failure:
    line = f"gpumand is not running, and could not be started: {error.message}; {_look(options)}"
    return Failure(ExitCode.NOT_RUNNING, line)


def not_started(error: BusTimeout, options: GlobalOptions) -> Failure:
    """What it means that nobody answers and nobody is there: it was started by the bus, and ended at once."""
    line = f"gpumand is not running, and could not be started ({error.message}); {_look(options)}"
    user = "--user " if options.user else ""
    mend = f"; or check its files with: gpumanctl {user}config-check, and then: systemctl {user}restart gpumand"
    return Failure(ExitCode.NOT_RUNNING, line + ("" if options.bus_address else mend))


def _denied(error: BusError, options: GlobalOptions) -> Failure:
    """Refused by polkit through the daemon, or by the bus's own policy."""
    if any(words in error.message for words in ("Rejected send", "not authorized to send")):
        line = "the bus does not let this user talk to gpumand; its policy org.gpumand1.conf may not be installed"
        return Failure(ExitCode.FAILURE, f"no permission: {line}, or ask as root")
    return Failure(ExitCode.FAILURE, f"no permission: {error.message}{_way_in(error.message)}")


def _way_in(message: str) -> str:
    """What gives somebody who was refused the right to ask."""
    if "root" not in message:
        return "; ask as root (sudo), or allow it with a polkit rule"
    if "org.gpumand1.acquire" in message:
        return "; members of the group gpumand are allowed to: sudo gpasswd --add NAME gpumand"
    return "; ask with sudo" if "org.gpumand1." in message else ""


def _interface(error: BusError, options: GlobalOptions) -> Failure:
    return Failure(ExitCode.FAILURE, f"{_mismatch(options)} ({error.message})")


def _went_away(error: BusError, options: GlobalOptions) -> Failure:
    line = f"gpumand left the bus while it was asked (stopped, restarted or crashed): {error.message}; {_look(options)}"
    return Failure(ExitCode.FAILURE, line)


_TELLERS: dict[str, Callable[[BusError, GlobalOptions], Failure]] = {
    **dict.fromkeys(NOBODY, _not_running),
    **dict.fromkeys(NOT_STARTED, _activation_failed),
    **dict.fromkeys(
        (FREEDESKTOP + "AccessDenied", FREEDESKTOP + "AuthFailed", FREEDESKTOP + "InteractiveAuthorizationRequired"),
        _denied,
    ),
    **dict.fromkeys(UNSPOKEN, _interface),
    **dict.fromkeys(LEFT, _went_away),
}


def _mismatch(options: GlobalOptions) -> str:
    restart = "" if options.bus_address else f" (systemctl {'--user ' if options.user else ''}restart gpumand)"
    return (
        f"the running gpumand does not speak as gpumanctl {VERSION} does; was it upgraded and not restarted?{restart}"
    )


def _no_bus(why: str, options: GlobalOptions) -> str:
    if options.bus_address:
        return why
    session = "is there a session bus here? without --user the system bus is asked"
    hint = session if options.user else "is dbus.socket up? --user asks the session bus"
    return f"{why}; {hint}"


def _bus(options: GlobalOptions) -> str:
    if options.bus_address:
        return f"the bus at {options.bus_address}"
    return "the session bus" if options.user else "the system bus"


def _look(options: GlobalOptions) -> str:
    if options.bus_address:
        return "look at what it printed"
    return f"look at: journalctl {'--user ' if options.user else ''}-u gpumand"
