"""``gpumanctl fleet init``, ``invite`` and ``join``, with a real etcd that has the settings of init."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import aiohttp
import pytest

from gpumand.cli.fleet_setup.folders import Folders
from gpumand.fleet.certificates import create_ca, read_host
from gpumand.fleet.config import load
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.tls import client_context
from tests.integration.fleet.founded_fleet import ONE, TWO, Result, Run
from tests.integration.fleet.tls_etcd import TlsEtcd, needs_etcd


def modes(folders: Folders) -> dict[str, int]:
    files = [one for one in folders.base.rglob("*") if one.is_file() and "data" not in one.parts]
    return {str(one.relative_to(folders.base)): stat.S_IMODE(one.stat().st_mode) for one in files}


@needs_etcd
def test_first_host_gets_everything_and_secrets_only_root_can_read(founded: TlsEtcd, ctl: Run, first: Folders) -> None:
    done = ctl("init", f"--folder={first.base}")

    assert (done.code, done.err) == (0, "")
    assert "systemctl enable --now gpumand-fleet" in done.out
    found = modes(first)
    secrets = {"fleet/host.key", "fleet/etcd-password", "fleet-ca/ca.key", "fleet-ca/etcd-root-password"}
    assert {name for name, mode in found.items() if mode == 0o600} == secrets
    assert found["fleet-etcd/member.key"] == 0o640
    assert stat.S_IMODE((first.base / "fleet").stat().st_mode) == 0o700
    certificate = read_host(first.host.certificate.read_bytes())
    assert (certificate.names, certificate.common_name) == (("gpu1", "127.0.0.1"), "")


@needs_etcd
def test_first_host_can_write_its_own_row_in_etcd_and_no_other(founded: TlsEtcd, ctl: Run, first: Folders) -> None:
    assert ctl("init", f"--folder={first.base}").code == 0
    password = first.password.read_text(encoding="ascii").strip()
    token = founded.token(first.host, "gpu1", password)

    assert founded.put(first.host, f"/gpumand/lab/hosts/{ONE}", token)[0] == 200
    assert founded.put(first.host, f"/gpumand/lab/hosts/{TWO}", token)[0] == 403


async def status_at_peer_port(etcd: TlsEtcd, files: TlsFiles) -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context(files))) as session,
        session.get(f"{etcd.peer_url}/version") as answer,
    ):
        return answer.status


@needs_etcd
def test_certificate_of_a_host_is_not_that_of_a_member_of_etcd(founded: TlsEtcd, first: Folders) -> None:
    assert asyncio.run(status_at_peer_port(founded, first.member)) == 200
    with pytest.raises(aiohttp.ClientError):
        asyncio.run(status_at_peer_port(founded, first.host))


@needs_etcd
def test_keys_of_other_programs_keep_etcd_without_a_login_until_it_is_required(
    founded: TlsEtcd, ctl: Run, first: Folders
) -> None:
    for key in ("/gpumand/lab/hosts/x", "/another/program"):
        assert founded.put(first.host, key)[0] == 200

    refused = ctl("init", f"--folder={first.base}")
    assert (refused.code, "has 1 key of other programs" in refused.err) == (1, True), refused
    assert founded.put(first.host, "/another/program")[0] == 200

    assert ctl("init", "--require-login", f"--folder={first.base}").code == 0
    assert founded.put(first.host, "/another/program")[0] != 200
    assert ctl("init", f"--folder={first.base}").code == 0


@needs_etcd
def test_init_again_changes_no_file(founded: TlsEtcd, ctl: Run, first: Folders) -> None:
    before = {name: (first.base / name).read_bytes() for name in modes(first)}
    for _ in range(2):
        assert ctl("init", f"--folder={first.base}").code == 0

    assert {name: (first.base / name).read_bytes() for name in modes(first) if name != "log"} == {
        name: content for name, content in before.items() if name != "log"
    }


@needs_etcd
def test_invited_host_joins_with_one_document(founded: TlsEtcd, ctl: Run, first: Folders, second: Folders) -> None:
    assert ctl("init", f"--folder={first.base}").code == 0
    invited = ctl("invite", "gpu2", f"--machine-id={TWO}", "--address=10.0.0.2", f"--folder={first.base}")
    assert (invited.code, invited.err) == (0, "")
    document = second.base.parent / "bundle"
    document.write_text(invited.out, encoding="utf-8")

    joined = ctl("join", document, f"--folder={second.base}", machine_id=TWO)

    assert (joined.code, "systemctl enable --now gpumand-fleet" in joined.out) == (0, True), joined
    settings = load(second.config)
    assert (settings.fleet, settings.host, settings.url) == ("lab", "gpu2", "https://10.0.0.2:8447")
    assert settings.etcd is not None
    assert settings.etcd.endpoints == (founded.url,)
    assert not (second.base / "fleet-ca").exists(), "the authority stays on the first host"
    token = founded.token(second.host, "gpu2", second.password.read_text().strip())
    assert founded.put(second.host, f"/gpumand/lab/hosts/{TWO}", token)[0] == 200
    assert founded.put(second.host, f"/gpumand/lab/hosts/{ONE}", token)[0] == 403


@needs_etcd
def test_second_invitation_renews_the_certificate_and_keeps_the_old_files(
    founded: TlsEtcd, ctl: Run, first: Folders, second: Folders
) -> None:
    assert ctl("init", f"--folder={first.base}").code == 0
    document = second.base.parent / "bundle"
    for options in ((), ("--replace",)):
        invited = ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}")
        document.write_text(invited.out, encoding="utf-8")
        if options:
            refused = ctl("join", document, f"--folder={second.base}", machine_id=TWO)
            assert (refused.code, "this host is in a fleet already" in refused.err) == (1, True), refused
            second.config.write_text(second.config.read_text() + "# edited\n", encoding="utf-8")
        old = second.host.certificate.read_bytes() if options else b""
        assert ctl("join", document, f"--folder={second.base}", *options, machine_id=TWO).code == 0

    assert second.host.certificate.read_bytes() != old
    assert [one.read_bytes() for one in (second.base / "fleet").glob("host.crt.backup-*")] == [old]
    assert second.config.read_text().endswith("# edited\n"), "an edited configuration stays"
    founded.token(second.host, "gpu2", second.password.read_text().strip())


@needs_etcd
def test_copy_of_a_host_is_refused(founded: TlsEtcd, ctl: Run, first: Folders) -> None:
    assert ctl("init", f"--folder={first.base}").code == 0
    done = ctl("invite", "gpu2", f"--machine-id={ONE}", f"--folder={first.base}")
    assert (done.code, "gpu2 has the same machine id as gpu1" in done.err) == (1, True), done
    assert ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}").code == 0
    done = ctl("invite", "gpu3", f"--machine-id={TWO}", f"--folder={first.base}")
    assert (done.code, "gpu3 has the same machine id as gpu2" in done.err) == (1, True), done


def static(ctl: Run, first: Folders) -> Result:
    return ctl("init", "--host=gpu1", "--peer=gpu2=https://gpu2:8447", f"--folder={first.base}")


def test_two_hosts_without_etcd(ctl: Run, first: Folders, second: Folders) -> None:
    assert static(ctl, first).code == 0
    invited = ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}")
    document = second.base.parent / "bundle"
    document.write_text(invited.out, encoding="utf-8")
    assert ctl("join", document, f"--folder={second.base}", machine_id=TWO).code == 0

    assert load(first.config).peers == {"gpu2": "https://gpu2:8447"}
    assert load(second.config).peers == {"gpu1": "https://gpu1:8447"}
    assert load(second.config).etcd is None
    assert not first.root_password.exists()


def test_dry_run_writes_nothing(ctl: Run, first: Folders) -> None:
    done = ctl("init", "--host=gpu1", "--etcd", "--dry-run", "--json", f"--folder={first.base}")

    assert done.code == 0
    assert str(first.config) in json.loads(done.out)["would_be_written"]
    assert not first.base.exists()


def test_init_gives_the_files_of_a_member_to_a_group_that_was_created_later(
    ctl: Run, first: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.cli.fleet_setup.founding.ETCD_GROUP", "no-such-group")
    before = ctl("init", "--host=gpu1", "--etcd", "--endpoint=https://127.0.0.1:1", f"--folder={first.base}")
    assert (before.code, "There is no group no-such-group yet" in before.out) == (0, True), before

    given: list[tuple[Path, str]] = []
    monkeypatch.setattr("gpumand.cli.fleet_setup.files.shutil.chown", lambda path, group: given.append((path, group)))
    after = ctl("init", f"--folder={first.base}")
    assert (after.code, "no-such-group" in after.out) == (0, False), after
    files = (first.member.ca, first.member.certificate, first.member.key)
    assert set(given) == {(one, "no-such-group") for one in (first.member.key.parent, *files)}


def test_existing_key_without_its_certificate_is_not_overwritten(ctl: Run, first: Folders) -> None:
    first.host.key.parent.mkdir(parents=True)
    first.host.key.write_text("precious", encoding="ascii")

    done = static(ctl, first)

    assert (done.code, "exists without" in done.err) == (1, True), done
    assert first.host.key.read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"machine_id": ONE}, f"the invitation is for a host with the machine id {ONE}, and this host has {TWO}"),
        ({"machine_id": "x"}, "machine id is not 32 hex digits"),
        ({"host": "gpu3"}, "the certificate is for gpu2, not for gpu3"),
        ({"host": "../x"}, "is not a name"),
        ({"url": "file:///etc"}, "is no invitation"),
        ({"ca": create_ca("other").certificate.decode("ascii")}, "another certificate authority"),
        ({"key": "nonsense"}, "not a private key"),
        ({"gpumand_fleet_bundle": 2}, "not what this version"),
        ({"peers": {"a": 1}}, "is no invitation"),
        ({"password": "\n"}, "its password is none"),
    ],
)
def test_altered_invitation_is_refused_with_the_reason(
    ctl: Run, first: Folders, second: Folders, change: dict[str, object], expected: str
) -> None:
    static(ctl, first)
    invited = json.loads(ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}").out)
    document = second.base.parent / "bundle"
    document.write_text(json.dumps(invited | change), encoding="utf-8")

    done = ctl("join", document, f"--folder={second.base}", machine_id=TWO)

    assert (done.code, expected in done.err) == (1, True), done
    assert not second.base.exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\xff", b"[" * 100_000, b"x" * 300_000])
def test_what_is_no_invitation_is_refused(ctl: Run, tmp_path: Path, content: bytes) -> None:
    document = tmp_path / "bundle"
    document.write_bytes(content)

    done = ctl("join", document, f"--folder={tmp_path}/two", machine_id=TWO)

    assert (done.code, "is no invitation" in done.err, "Traceback" in done.err) == (1, True, False), done


def test_a_host_without_the_authority_invites_no_one(ctl: Run, first: Folders) -> None:
    static(ctl, first)
    first.ca_key.unlink()
    first.ca_certificate.unlink()

    done = ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}")

    assert (done.code, "Run it on the host that created the fleet" in done.err) == (1, True), done


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "say where hosts meet"),
        (("--etcd", "--host=GPU1"), "is not a name"),
        (("--peer=gpu2",), "as in gpu2=https://gpu2:8447"),
        (("--etcd", "--address=a b"), "is not a URL"),
        (("--endpoint=gpu9",), "must start with http:// or https://"),
        (("--domain=lab example",), "is not the name of a DNS domain"),
        (("--domain=lab.example.org", "--endpoint=https://gpu9:2379"), "use it without --endpoint"),
    ],
)
def test_wrong_options_are_explained(ctl: Run, first: Folders, options: tuple[str, ...], expected: str) -> None:
    done = ctl("init", *options, f"--folder={first.base}")

    assert (done.code, expected in done.err) == (2, True), done
    assert not first.base.exists()


def names_of(bundle: str) -> tuple[str, ...]:
    return read_host(json.loads(bundle)["certificate"].encode()).names


def test_another_invitation_keeps_the_addresses_unless_others_are_given(ctl: Run, first: Folders) -> None:
    assert static(ctl, first).code == 0
    guest = ("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}")
    addresses = ("--address=gpu2.lan", "--address=10.0.0.2")
    for options, expected in (
        (addresses, ("gpu2", "gpu2.lan", "10.0.0.2")),
        ((), ("gpu2", "gpu2.lan", "10.0.0.2")),
        (("--address=gpu2.net",), ("gpu2", "gpu2.net")),
        ((), ("gpu2", "gpu2.net")),
    ):
        done = ctl(*guest, *options)
        assert (done.code, names_of(done.out)) == (0, expected), done
        assert f"https://{expected[1]}:8447" in done.err, "the others reach it at its first address"


def test_first_host_that_invites_itself_keeps_its_addresses(ctl: Run, first: Folders) -> None:
    addresses = ("--address=gpu1.lan", "--address=10.0.0.1")
    made = ctl("init", "--host=gpu1", *addresses, "--peer=gpu2=https://gpu2:8447", f"--folder={first.base}")
    assert made.code == 0, made
    done = ctl("invite", "gpu1", f"--machine-id={ONE}", f"--folder={first.base}")
    assert (done.code, names_of(done.out)) == (0, ("gpu1", "gpu1.lan", "10.0.0.1")), done


def test_address_of_a_peer_is_used_for_its_first_invitation(ctl: Run, first: Folders) -> None:
    assert ctl("init", "--host=gpu1", "--peer=gpu2=https://gpu2.lan:8447", f"--folder={first.base}").code == 0
    done = ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}")
    assert (done.code, names_of(done.out)) == (0, ("gpu2", "gpu2.lan")), done


def test_hosts_that_were_invited_before_addresses_were_kept_are_known(ctl: Run, first: Folders) -> None:
    assert static(ctl, first).code == 0
    first.invited.write_text(json.dumps({"gpu2": TWO}), encoding="utf-8")
    done = ctl("invite", "gpu3", f"--machine-id={TWO}", f"--folder={first.base}")
    assert (done.code, "gpu3 has the same machine id as gpu2" in done.err) == (1, True), done
    assert ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}").code == 0


@needs_etcd
def test_invitation_of_a_fleet_whose_members_are_in_dns_has_the_domain(
    founded: TlsEtcd, ctl: Run, first: Folders, second: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.config.unlink()
    asked = []

    async def discover(domain: str) -> tuple[str, ...]:
        asked.append(domain)
        return (founded.url,)

    monkeypatch.setattr("gpumand.cli.fleet_setup.founding.discover", discover)
    made = ctl("init", "--host=gpu1", "--domain=lab.example.org.", f"--folder={first.base}")
    assert (made.code, load(first.config).etcd.domain) == (0, "lab.example.org"), made  # type: ignore[union-attr]
    again = ctl("init", f"--folder={first.base}")
    assert (again.code, set(asked)) == (0, {"lab.example.org"}), again
    invited = ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}")
    assert (invited.code, invited.err) == (0, "")
    document = second.base.parent / "bundle"
    document.write_text(invited.out, encoding="utf-8")
    assert ctl("join", document, f"--folder={second.base}", machine_id=TWO).code == 0

    etcd = load(second.config).etcd
    assert etcd is not None
    assert (etcd.domain, etcd.endpoints, etcd.user) == ("lab.example.org", (), "gpu2")
    founded.token(second.host, "gpu2", second.password.read_text().strip())
