#!/usr/bin/env python3
"""Make the completions of gpumanctl for bash, zsh and fish.

usage: scripts/completions.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from click.shell_completion import get_completion_class  # noqa: E402 - as below

from gpumand.cli.app import PROG, gpumanctl  # noqa: E402 - found by the line above

SHELLS = ("bash", "zsh", "fish")
VARIABLE = f"_{PROG.upper()}_COMPLETE"
FUNCTION = f"_{PROG}_completion"
REGISTERED = f"compdef {FUNCTION} {PROG}"


def script(shell: str) -> str:
    """The text that click makes for a shell."""
    made = get_completion_class(shell)
    assert made is not None, shell
    return autoloaded(made(gpumanctl, {}, PROG, VARIABLE).source())


def autoloaded(text: str) -> str:
    """zsh runs the file itself for the first completion; before click 8.1.4 that one did nothing but register."""
    if "loadautofunc" in text:
        return text
    return text.replace(
        f"{REGISTERED};", f'{REGISTERED}\n[[ $zsh_eval_context[-1] != loadautofunc ]] || {FUNCTION} "$@"'
    )


def main() -> None:
    """Write one file for each shell."""
    (folder,) = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for shell in SHELLS:
        (folder / f"{PROG}.{shell}").write_text(script(shell).strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
