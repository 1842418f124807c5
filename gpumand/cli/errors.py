"""Turns every exception into an exit code and one line for the user: what happened, and what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from enum import IntEnum

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.bus.names import BUS_NAME
from gpumand.cli.options import GlobalOptions
from gpumand.client.errors import ACTIVATION_ERRORS, DISCONNECT_ERRORS, NO_OWNER_ERRORS, UNKNOWN_CALL_ERRORS, Mismatch
from gpumand.domain.errors import ERROR_PREFIX, FREEDESKTOP_ERROR_PREFIX, InvalidArgs
from gpumand.version import VERSION

__all__ = ["ExitCode", "Failure", "Mismatch", "NoBus", "daemon_did_not_start", "hint_for", "interpret"]


class ExitCode(IntEnum):
    """Exit codes of gpumanctl."""

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
    """A failure with an exit code and a message for the user.

    Attributes:
        code: exit code.
        message: one line; "" to print nothing.
        choices: lines to print below the message, for a choice that the user has to make.
    """

    def __init__(self, code: ExitCode, message: str, choices: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())
        self.choices = tuple(choices)


class NoBus(Exception):
    """The connection to the D-Bus bus could not be opened; the message is the reason."""


def interpret(error: Exception, options: GlobalOptions) -> Failure | None:
    """Translate an exception into a failure for the user; None for an exception that only a bug can cause."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, BusError) and not isinstance(error, BusTimeout):
        return _bus_error(error, options)
    line = _connection_error(error, options)
    return Failure(ExitCode.FAILURE, line) if line else output_failure(error)


def output_failure(error: Exception) -> Failure | None:
    """The failure when standard output takes no more: a full disk, a quota, or a device that fails; else None."""
    if not isinstance(error, OSError) or error.filename is not None or error.errno not in _OUTPUT_ERRORS:
        return None
    return Failure(ExitCode.FAILURE, f"cannot write the output: {error.strerror}")


_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def _connection_error(error: Exception, options: GlobalOptions) -> str:
    """The message when no answer came, or an unusable one; "" for any other exception."""
    if isinstance(error, BusTimeout):
        return f"gpumand did not answer in time ({error.message}); {_log_hint(options)}"
    if isinstance(error, NoBus):
        return _no_bus(str(error), options)
    if isinstance(error, BusLost):
        return f"the connection to the bus was lost: {error}"
    if isinstance(error, InvalidArgs):
        return error.message
    return f"{_mismatch(options)} ({error})" if isinstance(error, Mismatch) else ""


def _bus_error(error: BusError, options: GlobalOptions) -> Failure:
    """An error reply: from the daemon, or from the bus when no daemon is there."""
    handler = _HANDLERS.get(error.name)
    if handler is not None:
        return handler(error, options)
    from gpumand.cli.option_names import with_command_line_options

    message = with_command_line_options(error.message, options)
    if error.name.startswith(ERROR_PREFIX) or error.name == FREEDESKTOP_ERROR_PREFIX + "InvalidArgs":
        code = ExitCode.NO_SUCH if error.name in _NO_SUCH else ExitCode.FAILURE
        return Failure(code, message + hint_for(error.name, message))
    return Failure(ExitCode.FAILURE, f"{message} ({error.name})")


def hint_for(name: str, message: str) -> str:
    """The advice for a D-Bus error name; "" when the message contains its own, or there is none."""
    return "" if "did you mean" in message or "--timeout" in message else _HINTS.get(name, "")


_NO_SUCH = {ERROR_PREFIX + name for name in ("NoSuchConsumer", "NoSuchLease", "NoSuchRequest")}

_HINTS = {
    ERROR_PREFIX + "NoSuchConsumer": "; list the configured consumers with: gpumanctl list",
    ERROR_PREFIX + "NoSuchLease": "; list the active leases with: gpumanctl status",
    ERROR_PREFIX + "NoSuchRequest": "; list the waiting requests with: gpumanctl status",
    ERROR_PREFIX + "NoSuchDevice": "; list the GPUs with: gpumanctl status",
    ERROR_PREFIX + "TimedOut": "; wait longer with --timeout 5min or --wait",
}


def _not_running(_: BusError, options: GlobalOptions) -> Failure:
    if options.bus_address:
        start = f"start it with: gpumand --bus-address '{options.bus_address}'"
    else:
        start = f"start it with: systemctl {'--user ' if options.user else ''}start gpumand"
    return Failure(
        ExitCode.NOT_RUNNING, f"gpumand is not running ({BUS_NAME} has no owner on {_bus(options)}); {start}"
    )


def _activation_failed(error: BusError, options: GlobalOptions) -> Failure:
    line = f"gpumand is not running and could not be started: {error.message}; {_log_hint(options)}"
    return Failure(ExitCode.NOT_RUNNING, line)


def daemon_did_not_start(error: BusTimeout, options: GlobalOptions) -> Failure:
    """The failure when a call timed out and gpumand has no owner: the bus started it, and it exited at once."""
    line = f"gpumand is not running and could not be started ({error.message}); {_log_hint(options)}"
    user = "--user " if options.user else ""
    fix = f"; or check the configuration with: gpumanctl {user}config-check, then: systemctl {user}restart gpumand"
    return Failure(ExitCode.NOT_RUNNING, line + ("" if options.bus_address else fix))


def _denied(error: BusError, options: GlobalOptions) -> Failure:
    """Permission denied: by polkit through the daemon, or by the policy of the bus itself."""
    # AccessDenied is also what a bus itself answers; its text, which differs by bus implementation, shows it.
    if any(words in error.message for words in ("Rejected send", "not authorized to send")):
        line = "the D-Bus policy does not allow this user to call gpumand; check that org.gpumand1.conf is installed"
        return Failure(ExitCode.FAILURE, f"permission denied: {line}, or use sudo")
    # The daemon's own refusals start with these words and say how to get permission; those of the bus do not.
    prefix = "" if error.message.startswith(("Permission denied", "Authentication required")) else "permission denied: "
    return Failure(ExitCode.FAILURE, f"{prefix}{error.message}")


def _interface(error: BusError, options: GlobalOptions) -> Failure:
    return Failure(ExitCode.FAILURE, f"{_mismatch(options)} ({error.message})")


def _went_away(error: BusError, options: GlobalOptions) -> Failure:
    line = (
        f"gpumand left the bus during the call (stopped, restarted or crashed): {error.message}; {_log_hint(options)}"
    )
    return Failure(ExitCode.FAILURE, line)


_HANDLERS: dict[str, Callable[[BusError, GlobalOptions], Failure]] = {
    **dict.fromkeys(NO_OWNER_ERRORS, _not_running),
    **dict.fromkeys(ACTIVATION_ERRORS, _activation_failed),
    **dict.fromkeys(
        (
            FREEDESKTOP_ERROR_PREFIX + "AccessDenied",
            FREEDESKTOP_ERROR_PREFIX + "AuthFailed",
            FREEDESKTOP_ERROR_PREFIX + "InteractiveAuthorizationRequired",
        ),
        _denied,
    ),
    **dict.fromkeys(UNKNOWN_CALL_ERRORS, _interface),
    **dict.fromkeys(DISCONNECT_ERRORS, _went_away),
}


def _mismatch(options: GlobalOptions) -> str:
    restart = "" if options.bus_address else f" (systemctl {'--user ' if options.user else ''}restart gpumand)"
    return f"the running gpumand does not match gpumanctl {VERSION}; if it was upgraded, restart it{restart}"


def _no_bus(why: str, options: GlobalOptions) -> str:
    if options.bus_address:
        return why
    if options.user:
        return f"{why}; check that this session has a D-Bus session bus, or omit --user to use the system bus"
    from gpumand.host_setup.init_system import no_systemd

    missing = no_systemd()
    if missing is not None:
        return f"{why}; {missing}. To see gpumand at work without systemd: gpumanctl demo"
    return f"{why}; check that dbus.socket is active, or use the session bus with --user"


def _bus(options: GlobalOptions) -> str:
    if options.bus_address:
        return f"the bus at {options.bus_address}"
    return "the session bus" if options.user else "the system bus"


def _log_hint(options: GlobalOptions) -> str:
    if options.bus_address:
        return "check its output"
    return f"check its log: journalctl {'--user ' if options.user else ''}-u gpumand"
