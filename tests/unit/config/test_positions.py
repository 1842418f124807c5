"""The key scanner finds every key of generated documents, and never fails on text that is not TOML."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.config.positions import KeyPath, Position, find_keys

ALPHABET = st.sampled_from("ab1-_.=#[]{},'\"\\ \n\té€")
NAMES = st.one_of(st.text("abc1-_", min_size=1, max_size=3), st.text(ALPHABET, max_size=4))
TEXTS = st.text(ALPHABET, max_size=12)
SCALARS = st.one_of(st.booleans(), st.integers(-99, 99), st.sampled_from([1.5, -2e9]), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)

# The names in a table header; an int selects an element of an array of tables.
Header = tuple[tuple[str, int | None], ...]


class Writer:
    """Writes a document in a randomly drawn style and records the position of each key."""

    def __init__(self, data: st.DataObject) -> None:
        self.text = ""
        self.expected: dict[KeyPath, Position] = {}
        self._data = data

    def write_table(self, table: dict[str, Any], header: Header = ()) -> None:
        later = {name: value for name, value in table.items() if self._may_have_header(value) and self._flip()}
        path = key_path(header)
        for name, value in table.items():
            if name not in later:
                self._blank_line()
                self._assign(path, (), name, value)
                self._end_line()
        for name, value in later.items():
            self._write_later(name, value, header)

    def _write_later(self, name: str, value: Any, header: Header) -> None:
        if isinstance(value, dict):
            self._header("[", "]", (*header, (name, None)))
            self.write_table(value, (*header, (name, None)))
            return
        for index, element in enumerate(value):
            inside = (*header, (name, index))
            self._header("[[", "]]", inside)
            self.write_table(element, inside)

    def _may_have_header(self, value: Any) -> bool:
        if isinstance(value, dict):
            return True
        return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)

    def _header(self, opening: str, closing: str, header: Header) -> None:
        self._blank_line()
        self.text += opening
        for number, (name, _) in enumerate(header):
            self.text += "." if number else ""
            self._key(key_path(header[:number]), name)
        if header[-1][1] is not None:
            self._mark(key_path(header))
        self.text += closing
        self._end_line()

    def _assign(self, path: KeyPath, before: tuple[str, ...], name: str, value: Any) -> None:
        """Write one assignment, or several with dotted keys if the value is a table."""
        if isinstance(value, dict) and value and self._flip():
            for number, (inner_name, inner) in enumerate(value.items()):
                if number:
                    self._end_line()
                self._assign(path, (*before, name), inner_name, inner)
            return
        for number, part in enumerate((*before, name)):
            self.text += "." if number else ""
            self._key((*path, *before[:number]), part)
        self.text += "=" + self._space()
        self._value((*path, *before, name), value)

    def _key(self, path: KeyPath, name: str) -> None:
        self.text += self._space()
        self._mark((*path, name))
        self.text += self._written_key(name) + self._space()

    def _written_key(self, name: str) -> str:
        styles = [json.dumps(name, ensure_ascii=self._flip())]
        if re.fullmatch("[A-Za-z0-9_-]+", name):
            styles.append(name)
        if "'" not in name and "\n" not in name:
            styles.append(f"'{name}'")
        return self._one_of(styles)

    def _value(self, path: KeyPath, value: Any) -> None:
        if isinstance(value, dict):
            self._inline_table(path, value)
        elif isinstance(value, list):
            self._array(path, value)
        else:
            self.text += self._string(value) if isinstance(value, str) else json.dumps(value)

    def _inline_table(self, path: KeyPath, table: dict[str, Any]) -> None:
        self.text += "{" + self._space()
        for number, (name, value) in enumerate(table.items()):
            self.text += "," if number else ""
            self._key(path, name)
            self.text += "=" + self._space()
            self._value((*path, name), value)
            self.text += self._space()
        self.text += "}"

    def _array(self, path: KeyPath, elements: list[Any]) -> None:
        self.text += "["
        for index, element in enumerate(elements):
            self.text += self._gap()
            self._mark((*path, index))
            self._value((*path, index), element)
            self.text += self._gap() + ","
        self.text += self._gap() + "]"

    def _string(self, text: str) -> str:
        styles = [json.dumps(text, ensure_ascii=self._flip()), self._long_basic(text)]
        if "'" not in text:
            styles.append(f"'''\n{text}'''")
            styles += [] if "\n" in text else [f"'{text}'"]
        return self._one_of(styles)

    def _long_basic(self, text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('""', '"\\"')
        return f'"""\n{escaped}"""'

    def _mark(self, path: KeyPath) -> None:
        line = self.text.count("\n") + 1
        self.expected.setdefault(path, Position(line, len(self.text) - self.text.rfind("\n")))

    def _blank_line(self) -> None:
        self.text += self._one_of(["", "", "\n", "# a = [1\n", "\t \n"])

    def _end_line(self) -> None:
        self.text += self._one_of(["\n", ' # "\n'])

    def _gap(self) -> str:
        return self._one_of(["", " ", "\n", "# ]}'\n  "])

    def _space(self) -> str:
        return self._one_of(["", " ", "\t"])

    def _flip(self) -> bool:
        return self._data.draw(st.booleans())

    def _one_of(self, choices: list[str]) -> str:
        return self._data.draw(st.sampled_from(choices))


def key_path(header: Header) -> KeyPath:
    return tuple(part for pair in header for part in pair if part is not None)


@given(DOCUMENTS, st.data())
def test_every_key_is_found_where_it_was_written(document: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(data)
    writer.write_table(document)
    text = writer.text.replace("\n", "\r\n") if data.draw(st.booleans()) else writer.text
    assert tomllib.loads(text) == document

    assert find_keys(text) == writer.expected


@given(st.text(ALPHABET, max_size=60))
def test_text_that_is_not_toml_never_fails(text: str) -> None:
    lines = text.split("\n")

    for position in find_keys(text).values():
        assert 1 <= position.line <= len(lines)
        assert 1 <= position.column <= len(lines[position.line - 1]) + 1


@given(DOCUMENTS, st.data())
def test_document_with_one_changed_character_never_fails(document: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(data)
    writer.write_table(document)
    at = data.draw(st.integers(0, len(writer.text)))
    broken = writer.text[:at] + data.draw(ALPHABET) + writer.text[at + 1 :]

    assert all(position.line >= 1 for position in find_keys(broken).values())


@pytest.mark.parametrize(
    "text",
    [
        'a = "' + "\\x" * 200_000,
        'a = """' + '"" ' * 200_000,
        "a = '''" + "'' " * 200_000,
        "a = " + "[" * 200_000,
        "a = " + "{b = " * 100_000,
        "\n" * 500_000,
        "# comment\n" * 100_000,
        '"' * 200_000,
    ],
    ids=["escapes", "quotes", "apostrophes", "brackets", "braces", "newlines", "comments", "openings"],
)
@pytest.mark.timeout(60)
def test_hostile_text_is_scanned_in_linear_time(text: str) -> None:
    assert find_keys(text).get(("a",), Position(1, 1)) == Position(1, 1)


def test_invalid_statement_skips_only_its_own_line() -> None:
    assert find_keys("one = 1\n= = =\ntwo = 2\n")["two",] == Position(3, 1)


def test_position_of_a_table_is_its_first_mention() -> None:
    found = find_keys("[consumers.tts.health]\npath = '/'\n\n[consumers.tts]\nunit = 'tts.service'\n")

    assert found["consumers", "tts"] == Position(1, 12)
    assert found["consumers", "tts", "unit"] == Position(5, 1)


def test_elements_of_an_array_of_tables_have_their_own_positions() -> None:
    found = find_keys("[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3\n")

    assert (found["a", 0, "x"].line, found["a", 1, "x"].line) == (2, 4)
    assert found["a", 1, "b", "y"].line == 6
