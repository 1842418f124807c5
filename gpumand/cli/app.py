"""The ``gpumanctl`` command group: finds commands, runs them and turns every error into a message and an exit code.

Each command is in a module of ``commands`` that is imported only when the command is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from gpumand.cli.options import command_line, global_options, shared_params
from gpumand.version import VERSION

PROG = "gpumanctl"

SECTIONS: dict[str, dict[str, str]] = {
    "Inspect": {
        "status": "status:status",
        "list": "status:list_consumers",
        "show": "show:show",
        "plan": "plan:plan",
        "top": "top:top",
        "history": "history:history",
        "monitor": "monitor:monitor",
    },
    "Leases": {
        "acquire": "leases:acquire",
        "release": "leases:release",
        "renew": "leases:renew",
        "cancel": "cancelling:cancel",
        "run": "run:run",
        "hold": "hold:hold",
    },
    "Manual operations": {
        "load": "consumers:load",
        "evict": "consumers:evict",
        "pin": "consumers:pin",
        "unpin": "consumers:unpin",
        "drain": "drain:drain",
        "undrain": "drain:undrain",
    },
    "Configuration": {
        "init": "init:init",
        "preset": "presets:preset",
        "calibrate": "calibrate:calibrate",
        "config-check": "daemon:config_check",
        "simulate": "simulate:simulate",
    },
    "Daemon": {
        "setup": "setup:setup",
        "doctor": "doctor:doctor",
        "report": "report:report",
        "reload": "daemon:reload",
        "gpu": "gpu:gpu",
        "gateway": "gateway:gateway",
        "connect": "connect:connect",
        "disconnect": "connect:disconnect",
        "fleet": "fleet:fleet",
        "mcp": "mcp:mcp",
        "version": "version:version",
    },
    "Help": {
        "demo": "demo:demo",
        "help": "help:help_command",
    },
}
"""Section of the help -> command -> "module:attribute" in ``gpumand.cli.commands``."""

COMMANDS = {name: location for section in SECTIONS.values() for name, location in section.items()}

OTHER_NAMES = {"unload": ("unload", "evict"), "stop": ("unload", "evict"), "start": ("load", "load")}
"""Unknown command -> what the user probably wants to do, and the command for it."""


class Gpumanctl(click.Group):
    """The command group: imports commands on demand, and gives every outcome its exit code and error message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module that defines the command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"gpumand.cli.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Look a command up; the error for an unknown command suggests the nearest name."""
        name = args[0]
        # Shell completion looks up the words typed so far, and must not fail.
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise _unknown_command(ctx, name, args[1:])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands to the help, in sections."""
        for title, names in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(60)) for name, command in commands if command])

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and exit with its exit code."""
        kwargs |= {"prog_name": PROG, "standalone_mode": False}
        code = _exit_code(lambda: super(Gpumanctl, self).main(*args, **kwargs))
        try:
            sys.stdout.flush()
        except OSError:
            _drop_stdout()  # the error was reported by then
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes one line on stderr and an exit code."""
        from gpumand.cli.errors import ExitCode, Failure, interpret

        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, so that a closed pipe is noticed while it can still be handled
        except BrokenPipeError:
            _drop_stdout()
            raise click.exceptions.Exit(ExitCode.BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            failure = interpret(error, global_options(ctx))
            if failure is None:
                text = f"internal error: {type(error).__name__}: {error}. This is a bug in gpumanctl; please report it"
                failure = Failure(ExitCode.FAILURE, text)
            _print_error(failure.message, failure.choices)
            raise click.exceptions.Exit(failure.code) from None
        return result


def _unknown_command(ctx: click.Context, name: str, arguments: list[str]) -> Exception:
    """The error for an unknown command: the command that does the same, or the one with the nearest name."""
    if name in OTHER_NAMES:
        from gpumand.cli.errors import ExitCode, Failure

        what, command = OTHER_NAMES[name]
        line = command_line(global_options(ctx), command, *(arguments or ["CONSUMER"]))
        return Failure(ExitCode.USAGE, f"gpumanctl has no command '{name}'. To {what} a consumer: {line}")
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return click.UsageError(f"no such command: {name}{hint}", ctx)


def _exit_code(run: Any) -> int:
    """Run the command line and return its exit code; usage errors are printed in one line, as all others are."""
    try:
        code = run()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else PROG
        _print_error(f"{error.format_message()} (see {path} --help)")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # while the help is printed, which is not part of a command
        from gpumand.cli.errors import ExitCode, output_failure

        failure = output_failure(error)
        if failure is None:
            raise
        _print_error(failure.message)
        return ExitCode.FAILURE
    return code if isinstance(code, int) else 0


def _print_error(message: str, choices: Sequence[str] = ()) -> None:
    """Print one line on stderr, and below it the choices; a closed stderr does not change the exit code."""
    from gpumand.cli.render.format import clean

    if message:
        # A message may quote names and texts of other programs: clean() removes their control characters.
        lines = [f"{PROG}: {clean(' '.join(message.split()))}", *map(clean, choices)]
        try:
            print("\n".join(lines), file=sys.stderr, flush=True)
        except OSError:
            return


def _drop_stdout() -> None:
    """Point stdout to /dev/null after its reader has closed the pipe.

    The interpreter flushes stdout once more at exit, and would print a BrokenPipeError.
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


@click.group(
    cls=Gpumanctl,
    invoke_without_command=True,
    params=shared_params(),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 failure, 2 usage error, 3 gpumand is not running, 4 no such consumer or lease.",
)
@click.version_option(
    VERSION,
    "--version",
    prog_name=PROG,
    message="%(prog)s %(version)s",
    help="Print the version of gpumanctl and exit. The version command also shows the version of gpumand.",
)
@click.pass_context
def gpumanctl(ctx: click.Context) -> None:
    """Request GPU services from gpumand, and show which service uses how much VRAM.

    Without a command, gpumanctl shows the status.
    """
    if ctx.invoked_subcommand is None:
        from gpumand.cli.commands.status import status

        if global_options(ctx).fleet:
            with click.Context(status, parent=ctx, info_name="status") as inner:
                status.invoke(inner)
        else:
            ctx.invoke(status)
