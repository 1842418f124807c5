"""``gpumanctl history`` over several pages: each entry once and in order, even with equal timestamps."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.client import Client
from gpumand.cli.commands import history
from gpumand.domain.history import MAX_ENTRIES


class PagedHistory:
    """Answers GetHistory as the daemon does, in pages of at most ``page_size`` entries."""

    def __init__(self, moments: list[int], page_size: int = MAX_ENTRIES) -> None:
        self.entries = [{"at_usec": at, "number": number} for number, at in enumerate(sorted(moments, reverse=True))]
        self.page_size = page_size
        self.calls = 0

    async def history(self, options: dict[str, tuple[str, Any]]) -> list[dict[str, Any]]:
        self.calls += 1
        until = options.get("until_usec", ("t", 0))[1] or 2**63
        fitting = [entry for entry in self.entries if entry["at_usec"] < until]
        return fitting[: min(options["limit"][1], self.page_size)]


async def numbers(pages: PagedHistory, limit: int, **wanted: tuple[str, Any]) -> list[int]:
    found = await history.entries(cast(Client, pages), dict(wanted), limit)
    return [entry["number"] for entry in found]


@given(st.lists(st.integers(1, 60), max_size=3 * MAX_ENTRIES // 400), st.integers(1, 40))
async def test_every_entry_is_returned_once_and_in_order(moments: list[int], limit: int) -> None:
    assert await numbers(PagedHistory(moments), limit) == list(range(min(limit, len(moments))))


async def test_more_entries_than_a_page_are_read_page_by_page() -> None:
    moments = [at // 7 + 1 for at in range(2500)]
    pages = PagedHistory(moments)
    assert await numbers(pages, 2400) == list(range(2400))
    assert pages.calls == 3


async def test_a_page_full_of_one_microsecond_ends_the_paging() -> None:
    pages = PagedHistory([5] * 3000)
    assert await numbers(pages, 3000) == list(range(MAX_ENTRIES))


async def test_until_applies_to_every_page() -> None:
    pages = PagedHistory(list(range(1, 3001)))
    assert await numbers(pages, 1500, until_usec=("t", 2001)) == list(range(1000, 2500))
