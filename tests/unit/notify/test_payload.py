"""What a webhook gets: the text under the names that the services read, cut to what they accept."""

from __future__ import annotations

import pytest

from gpumand.notify.delivery import payload
from gpumand.notify.notices import Notice, NoticeKind
from gpumand.notify.rate import Delivery


@pytest.mark.parametrize(("length", "end"), [(1999, "xx"), (2000, "xx"), (2001, "x…"), (9000, "x…")])
def test_the_text_for_discord_is_cut_to_what_it_accepts(length: int, end: str) -> None:
    sent = payload(Delivery((Notice(NoticeKind.LOAD_FAILED, "llm", "x" * length),), 0))
    assert len(str(sent["content"])) == min(length, 2000)
    assert str(sent["content"]).endswith(end)
    assert sent["text"] == sent["message"] == "x" * length
