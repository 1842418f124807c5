"""The file with the API keys of the gateway's clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config.gateway_keys import (
    GatewayKey,
    add_key,
    hash_of,
    is_key_name,
    key_table,
    load_keys,
    new_secret,
    remove_key,
)
from gpumand.config.problems import ConfigProblems, ProblemList


def read(path: Path) -> tuple[GatewayKey, ...]:
    problems = ProblemList()
    found = load_keys(path, problems, optional=False)
    problems.raise_any([str(path)])
    return found


def table(name: str, secret: str, **more: bool) -> str:
    rights = {"evict": False, "interactive": False} | more
    return key_table(name, hash_of(secret), 7, ("llama",), **rights)


def test_keys_are_added_and_removed_and_nothing_else_of_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("# made by an administrator\n", encoding="utf-8")
    file.chmod(0o600)

    add_key(file, table("a", "1", evict=True))
    add_key(file, table("b.c", "2"))
    add_key(file, table("d", "3"))

    assert [one.name for one in read(file)] == ["a", "b.c", "d"]
    assert read(file)[0] == GatewayKey(
        name="a", sha256=hash_of("1"), priority=7, consumers=frozenset({"llama"}), evict=True
    )
    assert remove_key(file, "b.c")
    assert [one.name for one in read(file)] == ["a", "d"]
    assert not remove_key(file, "missing")
    assert file.read_text(encoding="utf-8").startswith("# made by an administrator\n")
    assert file.stat().st_mode & 0o777 == 0o600


def test_new_file_is_not_readable_by_all(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.toml", table("a", "1"))

    assert (tmp_path / "keys.toml").stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["keys.toml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "unknown table"),
        ("keys = 1", "must be a table"),
        ("[keys.a]", "is missing"),
        ("[keys.a]\nsha256 = 'gpumand-very-secret'", "not a SHA-256 hash"),
        ("[keys.a]\nsha256 = 3", "must be a string"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\nprio = 1", "unknown key"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\npriority = 101", "from -100 to 100"),
        (f"[keys.'a b']\nsha256 = '{'0' * 64}'", "not a valid name"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\n[keys.b]\nsha256 = '{'0' * 64}'", "already the hash of the key a"),
    ],
)
def test_errors_have_their_place_and_never_the_value(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigProblems) as raised:
        read(file)
    assert message in str(raised.value)
    assert "very-secret" not in str(raised.value)


def test_names_and_secrets() -> None:
    assert is_key_name("open-webui_2.x")
    assert not any(map(is_key_name, ("", "-a", "a b", "a" * 65, "a\n", "ä")))
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(new_secret()) > 43
    assert "1" not in repr(GatewayKey(name="a", sha256="1"))
