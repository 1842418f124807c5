"""``gpumanctl config-check`` reads fleet.toml."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpumand.cli.app import gpumanctl
from gpumand.cli.fleet_check import fleet_warnings
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


UNIQUE = '[consumers.licensed]\nvram_resident_mib = 4000\nunit = "licensed.service"\nfleet = "unique"\n'
PEERS = '[fleet]\nurl = "http://a:1"\nallow_plaintext = true\n[fleet.peers]\nb = "http://b:2"\n'
ETCD = '[fleet]\nurl = "http://a:1"\nallow_plaintext = true\n[fleet.etcd]\nendpoints = "http://a:2379"\n'


def unique_warnings_of(folder: Path, fleet: str, **files: str) -> list[str]:
    (folder / "fleet.toml").write_text(fleet, encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return [one for one in fleet_warnings(folder / "fleet.toml") if "licensed" in one]


def test_unique_consumer_without_etcd_is_warned_of(tmp_path: Path) -> None:
    (found,) = unique_warnings_of(tmp_path, PEERS, gpumand=UNIQUE)
    assert "are not leased through it" in found


@pytest.mark.parametrize("gateway", ["[gateway]\n", "[gateway.fleet]\nenabled = false\n"])
def test_gateway_that_loads_a_unique_consumer_without_a_claim_is_warned_of(tmp_path: Path, gateway: str) -> None:
    (found,) = unique_warnings_of(tmp_path, ETCD, gpumand=UNIQUE, gateway=gateway)
    assert "does not use the fleet" in found
    assert f"[gateway.fleet] in {tmp_path}/gateway.toml" in found


def test_unique_consumer_that_is_protected_gives_no_warning(tmp_path: Path) -> None:
    assert unique_warnings_of(tmp_path, ETCD, gpumand=UNIQUE) == []
    assert unique_warnings_of(tmp_path, ETCD, gpumand=UNIQUE, gateway="[gateway.fleet]\nenabled = true\n") == []
    assert unique_warnings_of(tmp_path, ETCD, gpumand="[broken", gateway="") == []
