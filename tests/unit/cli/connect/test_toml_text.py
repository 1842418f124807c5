"""Settings are added to TOML files as text; a parser must find the new settings and no other change."""

from __future__ import annotations

import tomllib

import pytest

from gpumand.cli.connect.marked_lines import OFF, CannotEdit, without_marked
from gpumand.cli.connect.toml_text import with_settings

TOP, TABLE, VALUES = {"provider": "gpumand"}, ("providers", "gpumand"), {"url": "http://h", "name": 'a "b"'}


def changed(text: str) -> str:
    return with_settings(text, TOP, TABLE, VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        'model = "m"\n',
        'provider = "old" # mine\nmodel = "m"\n\n[providers.azure]\nurl = "x"\n\n[tui]\nprovider = "kept"\n',
        'provider = "old"\r\n[tui]\r\ntheme = "dark"\r\n',
    ],
)
def test_the_settings_are_found_by_a_parser_and_the_rest_is_unchanged(text: str) -> None:
    before, after = tomllib.loads(text), tomllib.loads(changed(text))

    assert after["provider"] == "gpumand"
    assert after["providers"].pop("gpumand") == VALUES
    assert after["providers"] == before.get("providers", {})
    others = {"provider", "providers"}
    assert {key: after[key] for key in after.keys() - others} == {key: before[key] for key in before.keys() - others}


def test_a_top_level_key_is_turned_off_but_not_the_same_key_of_a_table() -> None:
    lines = changed('provider = "old"\n[tui]\nprovider = "kept"\n').splitlines()

    assert f'{OFF}provider = "old"' in lines
    assert 'provider = "kept"' in lines


def test_taking_the_settings_out_restores_the_file() -> None:
    text = 'provider = "old" # mine\n\n[providers.azure]\nurl = "x"\n'

    assert without_marked(changed(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("provider = \n", "not valid TOML"),
        ('[providers.gpumand]\nurl = "x"\n', r"a table \[providers.gpumand\] already"),
        ('provider = """\nold"""\n', "not valid TOML|in a form that is not one line"),
        ('providers = {azure = {url = "x"}}\n', "with the new lines it is not valid TOML"),
        ('"provider" = "old"\n', "with the new lines it is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        changed(text)
