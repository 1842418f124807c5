"""Whether a card is suspended, without waking it."""

from __future__ import annotations

from gpumand.vram.sysfs import Card, read_number, read_word

RESUME_SEC = 10.0
"""Seconds after a resume in which memory is still moved back into the card."""

ASLEEP = frozenset({"suspended", "suspending", "resuming"})


class SleepWatch:
    """Remembers when each card was last seen suspended.

    Only files of the kernel's power management are read, which never wake a card.
    """

    def __init__(self) -> None:
        self._asleep_at: dict[str, float] = {}
        self._suspended_ms: dict[str, int] = {}
        self._all_asleep = False

    def expect_resume(self) -> None:
        """The host was suspended: the memory of every card is moved back now. May be called from any thread."""
        self._all_asleep = True

    def is_asleep(self, card: Card, now: float) -> bool:
        """Whether the card is suspended or was until a few seconds ago.

        Args:
            card: the card.
            now: monotonic time in seconds.
        """
        slept = read_word(card.path / "power/runtime_status") in ASLEEP or self._slept_in_between(card)
        if slept or self._all_asleep:
            self._asleep_at[card.bdf] = now
        last = self._asleep_at.get(card.bdf)
        return last is not None and now - last < RESUME_SEC

    def finish_reading(self) -> None:
        """All cards were examined: a resume of the host is taken into account."""
        self._all_asleep = False

    def _slept_in_between(self, card: Card) -> bool:
        """Whether the card was suspended and woken since the last call: the kernel adds up the time."""
        total_ms = read_number(card.path / "power/runtime_suspended_time")
        former_ms = self._suspended_ms.get(card.bdf)
        if total_ms is not None:
            self._suspended_ms[card.bdf] = total_ms
        return None not in (total_ms, former_ms) and total_ms != former_ms
