"""Configuration: TOML files to frozen values, and every fault told with its file, line and key.

Read ``schema`` for what may be written, ``load`` for how it comes together: files are found and parsed (``files``),
each key is read by its description (``tables``, ``kinds``, ``checks``), consumers get their preset put under them
(``consumers``, ``presets``), and what spans tables and files is judged last (``build``).
"""

from __future__ import annotations

import os
from pathlib import Path

from gpumand.config.builder import Measured, build
from gpumand.config.files import DROP_IN_NAME, MAIN_NAME, files_of, listed, read
from gpumand.config.problems import ConfigProblem, ConfigProblems, ProblemList, lines_of
from gpumand.domain.consumer import Settings

__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_FOLDER",
    "ConfigProblem",
    "ConfigProblems",
    "Measured",
    "lines_of",
    "load",
    "user_folder",
]

DEFAULT_FILE = Path("/etc/gpumand/gpumand.toml")
DEFAULT_FOLDER = Path("/etc/gpumand/conf.d")


def user_folder() -> Path:
    """Where a user's own files are, laid out like /etc/gpumand: ``$XDG_CONFIG_HOME/gpumand``, or ~/.config/gpumand."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "gpumand"


def load(path: Path | None = None, measured: Measured = lambda _spec: None, *, user: bool = False) -> Settings:
    """Read the configuration; blocks while it reads.

    Args:
        path: a file, or a folder: one laid out like /etc/gpumand (``gpumand.toml``, then ``conf.d/*.toml`` in name
            order), or any other, all of whose ``*.toml`` are read in name order. None for ``DEFAULT_FILE`` and then
            ``DEFAULT_FOLDER``, neither of which need exist.
        user: without a path, the user's own files are meant (``user_folder``), and not those of the system at all: its
            consumers are units that no user's systemd knows.
        measured: the most MiB that a consumer was measured to hold, asked where its footprint is not written.

    Raises:
        ConfigProblems: it cannot be used; all faults of all files are in it.
    """
    faults = ProblemList()
    main, drop_ins = DEFAULT_FILE, DEFAULT_FOLDER
    if user:
        main, drop_ins = user_folder() / MAIN_NAME, user_folder() / DROP_IN_NAME
    is_default = path is None
    files = files_of(path, faults) if path else [main, *listed(drop_ins, faults, optional=True)]
    documents = [one for file in files if (one := read(file, faults, optional=is_default and file == main))]
    settings = build(documents, faults, complete=not faults.problems, measured=measured)
    faults.raise_any(map(str, files))
    return settings
