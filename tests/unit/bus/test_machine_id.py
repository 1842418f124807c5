from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.bus.machine_id import read_machine_id

ID = "0123456789abcdef0123456789abcdef"


def test_first_file_with_an_id_is_used(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "var"
    second.write_text(ID + "\n")
    assert read_machine_id((first, second)) == ID


@pytest.mark.parametrize("content", [b"", b"uninitialized\n", b"\xff\xfe", ID.upper().encode()])
def test_invalid_files_yield_no_id(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "id").write_bytes(content)
    assert read_machine_id((tmp_path / "id",)) == ""
