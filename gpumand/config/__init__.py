"""Reads the TOML configuration into frozen values and reports every error with its file, line and key.

The package imports only ``gpumand.domain``; it knows nothing of the arbiter, the bus or the command line.
Reading order: ``schema`` lists every table and key. ``load`` reads a configuration: ``files`` finds and parses the
files, ``table_schema``, ``value_types`` and ``validators`` check each key, ``consumers`` and ``presets`` merge each
consumer with its preset, and ``builder`` checks everything that spans several tables or files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gpumand.config.files import DROP_IN_NAME, MAIN_NAME, config_files, list_toml_files, read
from gpumand.config.problems import ConfigProblem, ConfigProblems, ProblemList, problem_lines

if TYPE_CHECKING:
    from gpumand.config.builder import MeasuredFootprint
    from gpumand.domain.consumer import Settings

__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_FOLDER",
    "ConfigProblem",
    "ConfigProblems",
    "load",
    "problem_lines",
    "user_folder",
]

DEFAULT_FILE = Path("/etc/gpumand/gpumand.toml")
DEFAULT_FOLDER = Path("/etc/gpumand/conf.d")


def user_folder() -> Path:
    """Return the user's configuration folder: ``$XDG_CONFIG_HOME/gpumand``, or ``~/.config/gpumand``.

    Its layout is that of /etc/gpumand.
    """
    # The XDG specification says that a relative XDG_CONFIG_HOME is invalid and must be ignored.
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "gpumand"


def load(path: Path | None = None, measured: MeasuredFootprint = lambda _spec: None, *, user: bool = False) -> Settings:
    """Read the configuration. This function blocks while it reads files.

    Args:
        path: a file or a folder. A folder with a ``conf.d`` has the layout of /etc/gpumand: ``gpumand.toml`` is read
            first, then ``conf.d/*.toml`` in name order. In any other folder, all ``*.toml`` are read in name order.
            None reads ``DEFAULT_FILE`` and then ``DEFAULT_FOLDER``, neither of which needs to exist.
        measured: returns the highest VRAM use in MiB measured for a consumer; called for consumers whose footprint is
            not configured.
        user: without a path, read only the user's own files (``user_folder``). The system's files are left out,
            because their consumers are system units, which the user manager does not know.

    Raises:
        ConfigProblems: the configuration cannot be used; the exception lists all problems of all files.
    """
    # Processes that read tables of their own, such as the gateway, import this package without the builder (2 MB).
    from gpumand.config.builder import build

    problems = ProblemList()
    main, drop_ins = DEFAULT_FILE, DEFAULT_FOLDER
    if user:
        main, drop_ins = user_folder() / MAIN_NAME, user_folder() / DROP_IN_NAME
    is_default = path is None
    files = config_files(path, problems) if path else [main, *list_toml_files(drop_ins, problems, optional=True)]
    documents = [one for file in files if (one := read(file, problems, optional=is_default and file == main))]
    settings = build(documents, problems, complete=not problems.entries, measured=measured)
    problems.raise_any(map(str, files))
    return settings
