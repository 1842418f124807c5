"""Every text that names addresses for other hosts names the drop-in too, without which their packets are dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config.schema import HttpTable
from gpumand.config.table_schema import keys_of
from gpumand.gateway.access_config import AccessTable

ROOT = Path(__file__).resolve().parents[3]
SIGNS = ("allow_remote", "172.17.0.1", "#other-hosts")
PAGES = sorted((ROOT / "docs/guide").rglob("*.md"))
REMOTE = [page for page in PAGES if any(sign in page.read_text(encoding="utf-8") for sign in SIGNS)]


@pytest.mark.parametrize("page", REMOTE, ids=lambda page: page.name)
def test_page_with_a_listener_for_other_hosts_names_the_drop_in(page: Path) -> None:
    assert "IPAddressAllow=" in page.read_text(encoding="utf-8")


def test_pages_with_a_listener_for_other_hosts_are_found() -> None:
    found = {page.name for page in REMOTE}
    assert found >= {"gateway.md", "containers.md", "monitoring.md", "ollama.md", "immich.md"}


@pytest.mark.parametrize(("table", "unit"), [(AccessTable, "gpumand-gateway"), (HttpTable, "gpumand")])
def test_description_of_the_permission_names_the_drop_in(table: type, unit: str) -> None:
    text = keys_of(table)["allow_remote"].doc
    assert f"systemctl edit {unit}, [Service] and IPAddressAllow=" in text
