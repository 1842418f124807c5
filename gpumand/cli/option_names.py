"""Translates the names of D-Bus options in the daemon's messages to options of the command line.

The daemon names the options of its D-Bus interface, since it does not know which client it answers.
"""

from __future__ import annotations

import re

from gpumand.cli.options import GlobalOptions, command_line

COMMAND_LINE_OPTIONS = {
    "all": "--all",
    "consumer": "--consumer",
    "device": "--device",
    "duration_usec": "--for",
    "exclusive": "--exclusive",
    "force": "--force",
    "kinds": "--kind",
    "lifetime": "--lifetime",
    "limit": "--limit",
    "priority": "--priority",
    "reason": "--reason",
    "restore": "--restore",
    "since_usec": "--since",
    "timeout_usec": "--timeout",
    "token": "--token",
    "ttl_usec": "--ttl",
    "until_usec": "--until",
    "vram_mib": "--vram",
    "yield_lease": "--yield",
}
"""D-Bus option -> option of gpumanctl. The options ``method`` of Evict, ``within`` of Acquire and
``bound`` of ReleaseGpu have none."""

# An unknown option is one that only this gpumanctl knows: the daemon's own spelling says most about it.
_QUOTED = re.compile(r"(?<!unknown )\b(?:the )?option '(\w+)'", re.IGNORECASE)
_LIFETIME = re.compile(r"\blifetime '(\w+)'")
_BARE = re.compile(r"\b(since|timeout|ttl|until)_usec\b")
_COMMAND = re.compile(r"\bgpumanctl (release|status|show|evict|gpu)\b")
_HAS_DURATION = re.compile(r"--(ttl|for) must be")
_MICROSECONDS = re.compile(r"\b\d+\b")


def with_command_line_options(message: str, options: GlobalOptions | None = None) -> str:
    """The message of the daemon with ``--force`` for "the option 'force'", and durations for microseconds.

    Args:
        message: the message.
        options: select the gpumand for the commands in it; None = the default one.
    """
    translated = message if options is None else with_bus_option(message, options)
    translated = _QUOTED.sub(_option, translated)
    translated = _BARE.sub(r"--\1", _LIFETIME.sub(r"--lifetime \1", translated))
    return _MICROSECONDS.sub(_duration, translated) if _HAS_DURATION.search(translated) else translated


def with_bus_option(message: str, options: GlobalOptions) -> str:
    """The message with the commands in it for the gpumand that the options select: ``gpumanctl --user release …``."""
    return _COMMAND.sub(lambda match: command_line(options, match[1]), message)


def _option(match: re.Match[str]) -> str:
    return COMMAND_LINE_OPTIONS.get(match[1], match[0])


def _duration(match: re.Match[str]) -> str:
    from gpumand.cli.render.format import usec

    return usec(int(match[0])) if int(match[0]) else match[0]
