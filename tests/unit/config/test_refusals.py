"""Every problem is reported with its file, line and key and, if there is one, the name that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config import ConfigProblem, ConfigProblems, load
from tests.unit.config import refusals_of_consumers, refusals_of_routes, refusals_of_tables
from tests.unit.config.refusal_cases import CASES

# Loading the modules fills the list.
FILLED_BY = (refusals_of_tables, refusals_of_consumers, refusals_of_routes)


def problems_of(path: Path) -> tuple[ConfigProblem, ...]:
    with pytest.raises(ConfigProblems) as caught:
        load(path)
    return caught.value.problems


@pytest.mark.parametrize("name", CASES)
def test_problem_is_reported_at_its_line(name: str, tmp_path: Path) -> None:
    text, key, message_part, hint = CASES[name]
    file = tmp_path / "gpumand.toml"
    file.write_text(text, encoding="utf-8")

    (problem,) = problems_of(file)

    assert (problem.file, problem.key, problem.hint) == (str(file), key, hint)
    assert "#!" in text.split("\n")[problem.line - 1]
    assert message_part in problem.message
    assert str(problem).isprintable()


def test_problems_of_a_file_are_reported_in_line_order(tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text(
        "[scheduler]\n"
        'cushion_mib = "much"\n'
        "[consumers.a]\n"
        "vram_resident_mib = -1\n"
        'unit = "a"\n'
        'url = "ftp://h"\n'
        'health = { path = "x", loaded = "y" }\n'
        'can_coexist_with = ["b", "a"]\n'
    )

    found = [(problem.line, problem.key) for problem in problems_of(file)]

    assert found == [
        (2, "scheduler.cushion_mib"),
        (4, "consumers.a.vram_resident_mib"),
        (5, "consumers.a.unit"),
        (6, "consumers.a.url"),
        (7, "consumers.a.health.path"),
        (7, "consumers.a.health.loaded"),
        (8, "consumers.a.can_coexist_with[0]"),
        (8, "consumers.a.can_coexist_with[1]"),
    ]


def test_message_has_the_first_problem_and_the_number_of_further_ones(tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text("[scheduler]\ncushion = 1\nmax_evictions = -1\n")

    with pytest.raises(ConfigProblems) as caught:
        load(file)

    assert caught.value.message == (
        f"{file}:2: scheduler.cushion: unknown key (did you mean cushion_mib?) (and 1 more)"
    )
    assert caught.value.dbus_name == "org.gpumand1.Error.ConfigInvalid"


def test_column_is_the_position_of_the_key_in_an_inline_table(tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text('[consumers.a]\nvram_resident_mib = 1\nurl = "http://h"\nload = { path = "/", tries = 3 }\n')

    (problem,) = problems_of(file)

    assert (problem.line, problem.column) == (4, 22)


@pytest.mark.parametrize(
    ("content", "line", "column", "message_part"),
    [
        (b"[scheduler]\ncushion_mib 3\n", 2, 13, "is not valid TOML at column 13: Expected '=' after a key"),
        (b"[scheduler]\ncushion_mib = ", 2, 15, "is not valid TOML"),
        (b"a = 1\na = 2\n", 2, 6, "the key of this line is there twice in its table: remove one of the two"),
        (b"[consumers.a]\n[consumers.a]\n", 2, 0, "the table consumers.a is there twice: join the two"),
        ("\ufeff[gpu]\n".encode(), 1, 0, "it begins with a byte order mark: save it as UTF-8 without BOM"),
        ("[gpu]\nsource = “nvml”\n".encode(), 2, 0, 'replace the typographic quotes by "'),
        ("a = 1 # “x”\nb = # “y”\n".encode(), 2, 0, "Invalid value"),
        (b'a = "', 1, 6, "is not valid TOML"),
        (b"a = '''\n\n", 1, 0, "is not valid TOML"),
        (b"a = 1\nb = '\xff'\n", 2, 6, "is not UTF-8"),
        (b"a = " + b"9" * 5000, 0, 0, "is not valid TOML"),
        (b"a = " + b"[" * 100_000, 0, 0, "nested too deeply"),
        (b"a" + b".a" * 5000 + b" = 1", 0, 0, "is nested "),  # exceeds our limit and, since 3.14, Python's
    ],
)
def test_syntax_error_is_reported_with_line_and_column(
    content: bytes, line: int, column: int, message_part: str, tmp_path: Path
) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_bytes(content)

    (problem,) = problems_of(file)

    assert (problem.line, problem.column if column else 0) == (line, column)  # 0: differs between Python versions
    assert message_part in problem.message
    assert ("typographic" in problem.message) is ("typographic" in message_part)
    assert problem.key == ""
