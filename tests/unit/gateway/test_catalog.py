"""Lists of models come from servers and from a file, and both may contain anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpumand.gateway.catalog import (
    FILE,
    MAX_ENTRY_BYTES,
    MAX_MODELS,
    Catalog,
    Lists,
    load,
    read_ollama,
    read_openai,
    read_version,
    save,
)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"data": 1}, {"data": {"id": "a"}}, {"data": [1, None, []]}])
def test_documents_of_another_form_have_no_models(document: Any) -> None:
    assert read_openai(document) == ()


def test_unusable_entries_are_left_out() -> None:
    entries = [{"id": "a"}, {"id": ""}, {"id": 3}, {}, {"id": "x\ny"}, {"id": "b" * 257}]
    entries.append({"id": "big", "text": "x" * MAX_ENTRY_BYTES})

    assert read_openai({"data": entries}) == ({"id": "a"},)
    assert len(read_ollama({"models": [{"name": str(number)} for number in range(2 * MAX_MODELS)]})) == MAX_MODELS


@pytest.mark.parametrize("version", [None, 1, "x" * 100, "a\nb"])
def test_unusable_version_is_left_out(version: Any) -> None:
    assert read_version({"version": version}) == ""


def test_lists_survive_a_restart_without_what_was_in_memory(tmp_path: Path) -> None:
    catalog = Catalog({"a": Lists(({"id": "m"},), ({"name": "n"},), ({"name": "n"},), "0.5"), "b": Lists()})

    save(tmp_path, catalog.to_json())

    assert load(tmp_path).lists == {"a": Lists(({"id": "m"},), ({"name": "n"},), (), "0.5")}
    assert [one.name for one in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[" * 100_000,
        b"[]",
        json.dumps({"version": 2, "consumers": {"a": {"openai": [{"id": "m"}]}}}).encode(),
        json.dumps({"version": 1, "consumers": []}).encode(),
        json.dumps({"version": 1, "consumers": {"a": [], "b": {"openai": 3, "ollama": {}, "version": []}}}).encode(),
    ],
)
def test_unusable_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    assert not any(one.ids for one in load(tmp_path).lists.values())


def test_file_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to("/dev/zero")
    assert load(tmp_path).lists == {}
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert load(tmp_path).lists == {}
    assert load(tmp_path / "missing").lists == {}
