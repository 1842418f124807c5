"""What follows from VRAM that cannot be read, for findings."""

from __future__ import annotations

from gpumand.cli.doctor.facts import Facts
from gpumand.domain.device import error_word
from gpumand.domain.unread_devices import NO_SOURCE_WORDS, UNCHECKED, UNCHECKED_WITH_TOTAL


def effect_of(error: str, facts: Facts) -> str:
    """What the daemon does while VRAM cannot be read, in one line.

    Args:
        error: why it cannot be read.
        facts: with the configuration, as far as the caller can read it.
    """
    if error_word(error) not in NO_SOURCE_WORDS:
        return "requests wait or are refused until VRAM can be read again: unknown memory does not count as free"
    settings = facts.config.settings
    return UNCHECKED_WITH_TOTAL if settings is not None and settings.gpu.total_mib is not None else UNCHECKED
