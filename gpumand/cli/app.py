"""``gpumanctl``: the commands, each in a module of its own that is imported when it is asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from gpumand.cli.options import global_options, shared_params
from gpumand.version import VERSION

PROG = "gpumanctl"

SECTIONS: dict[str, dict[str, str]] = {
    "Look": {
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
        "run": "run:run",
    },
    "By hand": {
        "load": "consumers:load",
        "evict": "consumers:evict",
        "pin": "consumers:pin",
        "unpin": "consumers:unpin",
    },
    "Configuration": {
        "init": "init:init",
        "preset": "presets:preset",
        "calibrate": "calibrate:calibrate",
        "config-check": "daemon:config_check",
        "simulate": "simulate:simulate",
    },
    "The daemon": {
        "doctor": "doctor:doctor",
        "reload": "daemon:reload",
        "version": "daemon:version",
    },
}
COMMANDS = {name: place for section in SECTIONS.values() for name, place in section.items()}


class Gpumanctl(click.Group):
    """The group: finds commands late, and is the one place where every ending gets its exit code and its line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module that has it."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"gpumand.cli.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which command was probably meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"no such command: {name}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what they are for."""
        for title, names in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(60)) for name, command in commands if command])

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run, flush, and exit with the code of whatever the ending was."""
        kwargs |= {"prog_name": PROG, "standalone_mode": False}
        sys.exit(_ended(lambda: super(Gpumanctl, self).main(*args, **kwargs)))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a failure is told in one line on stderr."""
        from gpumand.cli.errors import ExitCode, Failure, interpret

        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_stdout()
            raise click.exceptions.Exit(ExitCode.BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            failure = interpret(error, global_options(ctx))
            if failure is None:
                failure = Failure(
                    ExitCode.FAILURE, f"unexpected {type(error).__name__}: {error}; this is a fault of it"
                )
            _tell(failure.message)
            raise click.exceptions.Exit(failure.code) from None
        return result


def _ended(run: Any) -> int:
    """The exit code; usage errors are told in one line, as all others are."""
    try:
        code = run()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else PROG
        _tell(f"{error.format_message()} (see {path} --help)")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


def _tell(message: str) -> None:
    """One line on stderr; a closed stderr is no reason to fail otherwise."""
    from gpumand.cli.render.format import clean

    if message:
        try:
            print(f"{PROG}: {clean(' '.join(message.split()))}", file=sys.stderr, flush=True)
        except OSError:
            return


def _drop_stdout() -> None:
    """Nobody reads us any more: let the interpreter's last flush go nowhere instead of complaining."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


@click.group(
    cls=Gpumanctl,
    invoke_without_command=True,
    params=shared_params(),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 gpumand is not running, 4 no such consumer or lease.",
)
@click.version_option(
    VERSION,
    "--version",
    prog_name=PROG,
    message="%(prog)s %(version)s",
    help="Print the version of gpumanctl and end; the command version asks gpumand for its own too.",
)
@click.pass_context
def gpumanctl(ctx: click.Context) -> None:
    """Borrow the VRAM of this host from gpumand, and look at who has it.

    Without a command: status.
    """
    if ctx.invoked_subcommand is None:
        from gpumand.cli.commands.status import status

        ctx.invoke(status)
