"""Decides between two presets for one program by the role of the server: llama-server without a model is a router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from gpumand.config.presets import preset
from gpumand.discovery.matching import Candidate


def with_role(candidate: Candidate, url: str, role: Any, answered: bool) -> Candidate:
    """The candidate with the preset of its role.

    Args:
        candidate: a candidate whose preset asks for a role.
        url: its URL; "" when unknown.
        role: the role that the server answered.
        answered: the server answered. If not, its command line decides, and the result is marked as a guess.
    """
    question = candidate.preset.about.role if candidate.preset else None
    if question is None:
        return candidate
    if answered:
        if role != question.equals:
            return candidate
        why = f"its answer to {question.path} ({question.value.lstrip('/')}: {question.equals})"
        return replace(candidate, preset=preset(question.preset), why=why)
    command = _command(candidate)
    if not command or _has_flag(command, question.unless_flags):
        return candidate
    place = url or "http://127.0.0.1:PORT"
    guess = f"it is a {question.equals}, because its command line names no model. Check it: curl {place}{question.path}"
    return replace(candidate, preset=preset(question.preset), guess=guess)


def _command(candidate: Candidate) -> list[str]:
    """The words of the command line by which the preset was recognised; empty when it cannot be read."""
    patterns = candidate.preset.about.detect.commands if candidate.preset else ()
    for process in candidate.processes:
        if any(fnmatchcase(process.command, f"*{pattern}*") for pattern in patterns):
            return process.command.split()
    return []


def _has_flag(command: Sequence[str], patterns: Sequence[str]) -> bool:
    flags = [word.partition("=")[0] for word in command if word.startswith("-")]
    return any(fnmatchcase(flag, pattern) for flag in flags for pattern in patterns)
