"""Settings and list items are added to YAML files as text; what is not understood is refused."""

from __future__ import annotations

import pytest
import yaml

from gpumand.cli.connect.marked_lines import OFF, CannotEdit, without_marked
from gpumand.cli.connect.yaml_text import with_list_item, with_top_settings

ITEM = ("- name: New", "  provider: openai")


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("", {}),
        ("# mine\ndark: true\nbase: https://example.org # work\n", {"dark": True}),
        ("---\ndark: true\n'base': x\n", {"dark": True}),
        ("read:\n- A.md\nbase: x\n", {"read": ["A.md"]}),
        ("dark: true\r\nbase: x\r\n", {"dark": True}),
    ],
)
def test_settings_are_found_by_a_parser_and_the_rest_is_unchanged(text: str, others: dict[str, object]) -> None:
    changed = with_top_settings(text, {"base": 'http://"h"\\'}, {})

    assert yaml.safe_load(changed) == {"base": 'http://"h"\\', **others}
    assert without_marked(changed) == text


def test_a_default_is_added_only_where_the_file_does_not_set_it() -> None:
    assert yaml.safe_load(with_top_settings("a: 1\n", {}, {"key": "d"})) == {"a": 1, "key": "d"}
    assert yaml.safe_load(with_top_settings("key: mine\n", {"b": "2"}, {"key": "d"})) == {"key": "mine", "b": "2"}


def test_a_replaced_line_becomes_a_comment() -> None:
    assert f"{OFF}base: old" in with_top_settings("base: old\n", {"base": "new"}, {}).splitlines()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["New"]),
        ("version: 1\n", ["New"]),
        ("models: []\n", ["New"]),
        ("models:\n  # for chat\n  - name: Old\n    provider: ollama\nrules: []\n", ["New", "Old"]),
        ("models:\n- name: Old\nrules: []\n", ["New", "Old"]),
        ("models: # mine\n      - name: Old\n", ["New", "Old"]),
        ("models:\nrules: []\n", ["New"]),
    ],
)
def test_an_item_comes_first_in_its_list(text: str, names: list[str]) -> None:
    changed = with_list_item(text, "models", ITEM)

    assert [one["name"] for one in yaml.safe_load(changed)["models"]] == names
    assert without_marked(changed) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{base: x}\n", "its line 1 is not the beginning of a setting"),
        ("a: 1\n\tb: 2\n", "its line 2 is indented with a tab"),
        ("---\na: 1\n---\nb: 2\n", "it has several documents"),
        ("--- a\n", "its first line is not understood"),
        ("base: x\nbase: y\n", "it sets base twice"),
        ("base: |\n  x\n", "its value of base is not one line"),
        ("base: x\n  y\n", "its value of base is not one line"),
        ("base:\n  - x\n", "its value of base is not one line"),
    ],
)
def test_settings_of_a_file_that_is_not_understood_are_refused(text: str, reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        with_top_settings(text, {"base": "new"}, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: [{name: Old}]\n", "its models are not a list with one item per line"),
        ("models:\n  name: Old\n", "its models are not a list"),
        ("models: []\nmodels: []\n", "it sets models twice"),
    ],
)
def test_a_list_that_is_not_understood_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        with_list_item(text, "models", ITEM)
