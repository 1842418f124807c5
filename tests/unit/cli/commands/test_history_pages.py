"""``history`` over several pages: every entry once, in order, however many share a microsecond."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.client import Client
from gpumand.cli.commands import history
from gpumand.domain.history import MAX_ENTRIES


class Kept:
    """Answers GetHistory as the daemon does, in pages of at most ``most``."""

    def __init__(self, moments: list[int], most: int = MAX_ENTRIES) -> None:
        self.entries = [{"at_usec": at, "number": number} for number, at in enumerate(sorted(moments, reverse=True))]
        self.most = most
        self.calls = 0

    async def history(self, options: dict[str, tuple[str, Any]]) -> list[dict[str, Any]]:
        self.calls += 1
        until = options.get("until_usec", ("t", 0))[1] or 2**63
        fitting = [entry for entry in self.entries if entry["at_usec"] < until]
        return fitting[: min(options["limit"][1], self.most)]


async def numbers(kept: Kept, limit: int, **wanted: tuple[str, Any]) -> list[int]:
    found = await history.entries(cast(Client, kept), dict(wanted), limit)
    return [entry["number"] for entry in found]


@given(st.lists(st.integers(1, 60), max_size=3 * MAX_ENTRIES // 400), st.integers(1, 40))
async def test_every_entry_comes_once_and_in_order(moments: list[int], limit: int) -> None:
    assert await numbers(Kept(moments), limit) == list(range(min(limit, len(moments))))


async def test_more_than_a_page_is_asked_for_page_by_page() -> None:
    moments = [at // 7 + 1 for at in range(2500)]
    kept = Kept(moments)
    assert await numbers(kept, 2400) == list(range(2400))
    assert kept.calls == 3


async def test_a_page_of_one_microsecond_ends_it_instead_of_asking_for_ever() -> None:
    kept = Kept([5] * 3000)
    assert await numbers(kept, 3000) == list(range(MAX_ENTRIES))


async def test_the_end_that_was_asked_for_holds_on_every_page() -> None:
    kept = Kept(list(range(1, 3001)))
    assert await numbers(kept, 1500, until_usec=("t", 2001)) == list(range(1000, 2500))
