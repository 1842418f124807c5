"""Sentences of gpumand that the page of the gateway takes apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gpumand.gateway.console
from gpumand.domain import wording

PAGE = Path(gpumand.gateway.console.__file__).parent / "files" / "page.js"


def constant(name: str) -> str:
    """The text of a constant of the page."""
    found = re.search(rf"^const {name} = (\".*\");$", PAGE.read_text(), re.MULTILINE)
    assert found is not None, f"page.js has no text {name}"
    text: str = json.loads(found[1])
    return text


def test_page_separates_the_reason_of_a_failed_load_and_the_lines_of_its_log_as_gpumand_joins_them() -> None:
    message = wording.with_log_lines("llm.service failed", ("Traceback: ", "out of memory"))
    reason, lines = message.split(constant("LAST_LINES"))
    assert (reason, lines.split(constant("LINE_SEPARATOR"))) == ("llm.service failed", ["Traceback: ", "out of memory"])
    assert wording.with_log_lines("llm.service failed", ()) == "llm.service failed"
