"""The commands of the documentation that need a booted machine, run unchanged in the order of each page.

``tests.documented_commands`` explains which commands run where.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.documented_commands import Page, pages
from tests.e2e.documented_host import DocumentedHost, prepare, restore
from tests.e2e.machine import Machine

HERE = [page for page in pages() if page.needs_machine]


@pytest.fixture(scope="module")
def prepared(installed: Machine) -> Iterator[Machine]:
    """The machine with the user of the documentation."""
    prepare(installed)
    yield installed
    restore(installed)


@pytest.fixture
def documented(prepared: Machine, page: Page) -> Iterator[DocumentedHost]:
    """The host of a page."""
    host = DocumentedHost(prepared, page)
    try:
        host.start()
        yield host
    finally:
        host.clean()


@pytest.mark.parametrize("page", [pytest.param(one, id=str(one)) for one in HERE])
def test_commands_of_the_page_work_in_the_order_of_the_page(documented: DocumentedHost, page: Page) -> None:
    for block in page.blocks:
        if block.file:
            documented.write(block)
        for step in block.steps() if block.has_commands else ():
            assert documented.run(block, step) == ""
