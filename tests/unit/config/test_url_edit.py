"""The url of a consumer is changed in its file, and every other byte stays."""

from __future__ import annotations

import pytest

from gpumand.config.url_edit import CannotEdit, with_url

URL = "http://127.0.0.1:11435"


@pytest.mark.parametrize("value", ['"http://127.0.0.1:11434"', "'http://127.0.0.1:11434'"])
def test_url_is_replaced_and_comments_stay(value: str) -> None:
    text = f'# mine\n[consumers.a]\nunit = "a.service"\nurl = {value}  # old\n\n[consumers.b]\nurl = "http://x"\n'
    assert with_url(text, "a", URL) == text.replace(value, f'"{URL}"')


def test_url_is_added_below_the_header_if_the_preset_sets_it() -> None:
    text = '[consumers.a]\npreset = "ollama"\n'
    assert with_url(text, "a", URL) == f'[consumers.a]\nurl = "{URL}"\npreset = "ollama"\n'


def test_quoted_name_is_found() -> None:
    text = '[consumers."my.tts"]\nurl = "http://x"\n'
    assert with_url(text, "my.tts", URL) == f'[consumers."my.tts"]\nurl = "{URL}"\n'


@pytest.mark.parametrize(
    "text",
    [
        'consumers.a = { url = "http://x", unit = "a.service" }\n',
        '[consumers]\na = { unit = "a.service" }\n',
        '[consumers]\na.unit = "a.service"\n',
        '[consumers.a]\nurl = """http://x"""\n',
        '[consumers.a]\nurl = "http://\\u0078"\n',
        '[consumers.a.health]\npath = "/"\n',
    ],
)
def test_other_notations_are_left_to_an_editor(text: str) -> None:
    with pytest.raises(CannotEdit):
        with_url(text, "a", URL)
