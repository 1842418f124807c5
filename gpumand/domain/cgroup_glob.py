"""Patterns of cgroup paths: ``*`` and ``?`` within one directory name, ``**`` across any number of directories.

Names of cgroups are chosen by users, so matching takes time proportional to pattern length times path length at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MAX_PATTERN = 512
MAX_PATH = 4096
ANY_DIRECTORIES = "**"


def matches_cgroup(pattern: str, path: str) -> bool:
    """Whether a pattern matches a cgroup path or one of the directories above it, so that nested cgroups count.

    Args:
        pattern: absolute, such as ``/machine.slice/libpod-*.scope`` or ``/kubepods.slice/**/pod1234*``.
        path: absolute path of a cgroup; "" and paths that are too long match nothing.
    """
    if not path.startswith("/") or len(path) > MAX_PATH:
        return False
    wanted = [*_parts(pattern), ANY_DIRECTORIES]
    return _matches(wanted, _parts(path), lambda one: one == ANY_DIRECTORIES, _name_matches)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _name_matches(pattern: str, name: str) -> bool:
    return _matches(pattern, name, lambda one: one == "*", lambda one, other: one in ("?", other))


def _matches(
    pattern: Sequence[str], text: Sequence[str], is_star: Callable[[str], bool], fits: Callable[[str, str], bool]
) -> bool:
    """Match with one position to return to: the last star takes one element more whenever the rest does not fit."""
    at = used = 0
    star = -1
    star_used = 0
    while used < len(text):
        if at < len(pattern) and is_star(pattern[at]):
            star, star_used, at = at, used, at + 1
        elif at < len(pattern) and fits(pattern[at], text[used]):
            at, used = at + 1, used + 1
        elif star >= 0:
            star_used += 1
            at, used = star + 1, star_used
        else:
            return False
    return all(is_star(one) for one in pattern[at:])
