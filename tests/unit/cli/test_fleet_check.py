"""``gpumanctl config-check`` reads fleet.toml."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpumand.cli.app import gpumanctl
from gpumand.fleet.certificates import create_ca, create_host, create_member

VALID = '[fleet]\nurl = "http://a:1"\nallow_plaintext = true\n[fleet.peers]\nb = "http://b:2"\n'


def check(file: Path, text: str, *options: str) -> int:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        gpumanctl.main(["config-check", str(file), *options])
    return int(caught.value.code or 0)


def test_valid_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "fleet.toml", VALID) == 0
    assert "is valid" in capsys.readouterr().out


def test_errors_have_file_line_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "fleet.toml", VALID.replace("b =", "B =")) == 1
    assert 'fleet.toml:5: fleet.peers.B: "B" is not a name' in capsys.readouterr().err


def test_files_that_are_missing_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = VALID.replace("[fleet]", '[fleet]\nca = "/none/ca.crt"\ncertificate = "/none/host.crt"\nkey = "/dev/null"')
    assert check(tmp_path / "fleet.toml", text, "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [
        "/none/ca.crt cannot be read: No such file or directory",
        "/none/host.crt cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(("days_ago", "expected"), [(10, ""), (340, "expires in 2"), (400, "has expired")])
def test_certificate_that_expires_soon_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days_ago: int, expected: str
) -> None:
    pair = create_host(create_ca("lab"), "lab", ("gpu1",), datetime.now(UTC) - timedelta(days=days_ago))
    (tmp_path / "host.crt").write_bytes(pair.certificate)
    files = f'\nca = "/dev/null"\ncertificate = "{tmp_path}/host.crt"\nkey = "/dev/null"'

    assert check(tmp_path / "fleet.toml", VALID.replace("[fleet]", f"[fleet]{files}")) == 0
    said = capsys.readouterr().err
    assert (expected in said, "gpumanctl fleet invite" in said) == (True, bool(expected))


def test_certificate_of_a_member_of_etcd_that_expires_soon_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = create_member(create_ca("lab"), "lab", ("gpu1",), datetime.now(UTC) - timedelta(days=340))
    (tmp_path / "fleet-etcd").mkdir()
    (tmp_path / "fleet-etcd" / "member.crt").write_bytes(pair.certificate)

    assert check(tmp_path / "fleet.toml", VALID.replace("[fleet]", '[fleet]\nhost = "gpu1"')) == 0
    said = capsys.readouterr().err
    assert f"{tmp_path}/fleet-etcd/member.crt expires in 2" in said
    assert "gpumanctl fleet invite gpu1 --etcd" in said
