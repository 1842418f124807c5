"""The configuration of the fleet: defaults, and errors with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config.problems import ConfigProblems
from gpumand.config.table_schema import keys_of
from gpumand.fleet.config import TABLES, credential, load, short_host_name, unreadable_files
from gpumand.fleet.settings import EtcdConfig, FleetConfig, Right, TlsFiles

FILES = 'ca = "/c/ca.crt"\ncertificate = "/c/host.crt"\nkey = "/c/host.key"'
WHOLE = f"""
[fleet]
name = "lab"
host = "gpu1"
url = "https://GPU1.lan:8447/"
listen = "[::]:9000"
gateway_url = "http://gpu1.lan:8770"
ttl_sec = 20
replicas_at = 3
{FILES}
[fleet.etcd]
endpoints = "https://gpu1.lan:2379"
password_file = "/c/etcd-password"
[fleet.peers]
gpu2 = "https://gpu2.lan:8447"
[fleet.allow]
"*" = "plan"
gpu2 = ["acquire", "plan", "load", "drain"]
"""
TWO_HOSTS = '[fleet]\nurl = "http://a:1"\nallow_plaintext = true\n[fleet.peers]\nb = "http://b:2"\n'


def read(tmp_path: Path, text: str) -> FleetConfig:
    file = tmp_path / "fleet.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path, text)
    return [str(one).removeprefix(f"{tmp_path}/fleet.toml:") for one in caught.value.problems]


def test_all_keys_are_read(tmp_path: Path) -> None:
    settings = read(tmp_path, WHOLE)

    assert (settings.fleet, settings.host, settings.url) == ("lab", "gpu1", "https://gpu1.lan:8447")
    assert (settings.listen, settings.gateway_url) == (("[::]:9000",), "http://gpu1.lan:8770")
    assert (settings.ttl_sec, settings.replicas_at) == (20.0, 3)
    assert settings.tls == TlsFiles(Path("/c/ca.crt"), Path("/c/host.crt"), Path("/c/host.key"))
    assert settings.etcd is not None
    assert settings.etcd.endpoints == ("https://gpu1.lan:2379",)
    assert settings.etcd.user == "gpu1", "the user of a password is the host by default"
    assert settings.peers == {"gpu2": "https://gpu2.lan:8447"}


def test_keys_that_are_left_out_have_the_defaults_of_the_settings(tmp_path: Path) -> None:
    settings = read(tmp_path, TWO_HOSTS)

    assert settings == FleetConfig(
        host=short_host_name(),
        url="http://a:1",
        listen=("0.0.0.0:1", "[::]:1"),
        peers={"b": "http://b:2"},
    )


def test_a_missing_file_is_an_error_because_a_host_is_in_a_fleet_only_by_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match="No such file"):
        load(tmp_path / "fleet.toml")


def test_a_host_has_the_rights_of_its_own_entry_and_others_those_of_the_star(tmp_path: Path) -> None:
    settings = read(tmp_path, WHOLE)

    assert [one for one in Right if settings.may("gpu2", one)] == list(Right)
    assert [one for one in Right if settings.may("gpu3", one)] == ["plan"]


def test_without_an_entry_a_host_may_nothing(tmp_path: Path) -> None:
    assert not any(read(tmp_path, TWO_HOSTS).may("b", one) for one in Right)


def test_an_own_entry_that_is_empty_takes_the_rights_of_the_star_away(tmp_path: Path) -> None:
    settings = read(tmp_path, TWO_HOSTS + '[fleet.allow]\n"*" = "acquire"\nb = []\n')

    assert (settings.may("b", Right.ACQUIRE), settings.may("c", Right.ACQUIRE)) == (False, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[flet]\n", "1: flet: unknown table (did you mean fleet?)"),
        (TWO_HOSTS + "[fleet.alow]\n", "6: fleet.alow: unknown table (did you mean allow?)"),
        ("fleet = 1\n", "1: fleet: must be a table, not a whole number"),
        (TWO_HOSTS + "[fleet.host]\n", "6: fleet.host: must be a string, not a table"),
        (TWO_HOSTS.replace("url", "urll"), "2: fleet.urll: unknown key (did you mean url?)"),
        (TWO_HOSTS.replace("http://a:1", "http://a:1/x"), "is not an address"),
        (
            TWO_HOSTS.replace("allow_plaintext = true\n", ""),
            '2: fleet.url: "http://a:1" is not encrypted: use https://',
        ),
        (TWO_HOSTS.replace("http://b", "https://b"), "1: fleet.key: is missing: TLS needs it"),
        (TWO_HOSTS.replace("[fleet]", '[fleet]\nca = "/x"', 1), "1: fleet.key: is missing: TLS needs it"),
        ('[fleet]\nurl = "https://a:1"\n' + FILES, "1: fleet: names no other host"),
        ('[fleet]\nurl = "https://a:1"\n' + FILES + "\n[fleet.peers]\n", "1: fleet: names no other host"),
        (TWO_HOSTS + f'{short_host_name()} = "http://c:1"\n', "is this host itself"),
        (TWO_HOSTS + 'B_1 = "http://c:1"\n', '6: fleet.peers.B_1: "B_1" is not a name'),
        (TWO_HOSTS + "c = 1\n", "6: fleet.peers.c: must be a string"),
        (TWO_HOSTS + '[fleet.allow]\nb = ["aquire"]\n', "(did you mean acquire?)"),
        (TWO_HOSTS + '[fleet.allow]\n"b*" = ["acquire"]\n', '"b*" is not a name'),
        (TWO_HOSTS + "[fleet.etcd]\n", "6: fleet.etcd.endpoints: is missing"),
        (TWO_HOSTS + '[fleet.etcd]\nendpoints = "http://e:1"\nuser = "x"\n', "fleet.etcd.password_file: is missing"),
        (TWO_HOSTS + '[fleet.etcd]\nendpoints = "http://e:1"\npassword_file = "x"\n', "must be an absolute path"),
    ],
)
def test_error_names_line_key_and_what_to_write(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in one for one in problems(tmp_path, text)), problems(tmp_path, text)


def test_an_endpoint_on_this_host_needs_no_encryption(tmp_path: Path) -> None:
    text = f'[fleet]\nurl = "https://a:1"\n{FILES}\n[fleet.etcd]\nendpoints = "http://127.0.0.1:2379"\n'

    assert read(tmp_path, text).etcd == EtcdConfig(("http://127.0.0.1:2379",))


@pytest.mark.parametrize("count", [33, 10000])
def test_too_many_hosts_are_refused_at_once(tmp_path: Path, count: int) -> None:
    text = TWO_HOSTS + "".join(f'h{number} = "http://c:1"\n' for number in range(count))

    assert any("at most 32 entries" in one for one in problems(tmp_path, text))


def test_files_come_from_the_credentials_that_systemd_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet_host.key").write_text("secret", encoding="ascii")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert credential("/etc/gpumand/fleet/host.key") == tmp_path / "fleet_host.key"
    assert credential("/etc/gpumand/fleet/other.key") == Path("/etc/gpumand/fleet/other.key")
    assert credential("/elsewhere/host.key") == Path("/elsewhere/host.key"), "the credential is another file"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    lines = unreadable_files(read(tmp_path, WHOLE))

    assert lines[0] == "/c/ca.crt cannot be read: No such file or directory"
    assert len(lines) == 4


def test_every_key_is_described_by_a_noun_phrase() -> None:
    for table in TABLES.values():
        for one in keys_of(table).values():
            assert one.doc[0].isupper(), one.name
            assert one.doc.endswith("."), one.name
