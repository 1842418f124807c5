"""``gpumanctl fleet remove``, with a real etcd: the host cannot log in any more, and nothing of it is left."""

from __future__ import annotations

import json

import pytest

from gpumand.cli.fleet_setup.folders import Folders
from tests.integration.fleet.founded_fleet import ONE, TWO, Run
from tests.integration.fleet.tls_etcd import TlsEtcd, encoded, needs_etcd


@needs_etcd
def test_removed_host_cannot_log_in_and_its_keys_are_gone(
    founded: TlsEtcd, ctl: Run, first: Folders, second: Folders
) -> None:
    token = joined(founded, ctl, first, second)
    session = founded.post(second.host, "lease/grant", {"TTL": 600}, token)[1]["ID"]
    for key, session_id in ((f"hosts/{TWO}", session), ("unique/llm", session), (f"drain/{TWO}", "0")):
        body = {"key": encoded(f"/gpumand/lab/{key}"), "value": encoded("{}"), "lease": session_id}
        assert founded.post(second.host, "kv/put", body, token)[0] == 200

    done = ctl("remove", "gpu2", f"--folder={first.base}")

    assert (done.code, done.err) == (0, "")
    assert "gpu2 = []" in done.out
    assert founded.post(second.host, "auth/authenticate", login(second))[0] == 400
    own = founded.token(first.host, "gpu1", first.password.read_text().strip())
    everything = {"key": encoded("/gpumand/lab/"), "range_end": encoded("/gpumand/lab0")}
    assert founded.post(first.host, "kv/range", everything, own)[1].get("kvs", []) == []
    assert founded.put(second.host, f"/gpumand/lab/hosts/{TWO}", token)[0] != 200, "its old token is refused too"
    assert "gpu2" not in json.loads(first.invited.read_text())


@needs_etcd
def test_removed_host_can_be_invited_again(founded: TlsEtcd, ctl: Run, first: Folders, second: Folders) -> None:
    joined(founded, ctl, first, second)
    assert ctl("remove", "gpu2", f"--folder={first.base}").code == 0

    document = second.base.parent / "again"
    document.write_text(ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}").out, encoding="utf-8")
    assert ctl("join", document, "--replace", f"--folder={second.base}", machine_id=TWO).code == 0
    assert founded.post(second.host, "auth/authenticate", login(second))[0] == 200


@needs_etcd
def test_host_stays_known_while_etcd_does_not_answer(
    founded: TlsEtcd, ctl: Run, first: Folders, second: Folders
) -> None:
    joined(founded, ctl, first, second)
    founded.process.terminate()
    founded.process.wait()

    done = ctl("remove", "gpu2", f"--folder={first.base}")

    assert (done.code, "Start etcd, then run gpumanctl fleet remove again" in done.err) == (1, True), done
    assert "gpu2" in json.loads(first.invited.read_text())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("gpu1", "gpu1 is this host, with the certificate authority"),
        ("gpu9", "no host gpu9 was invited from this host. Invited hosts: gpu2"),
    ],
)
def test_other_hosts_are_refused(ctl: Run, first: Folders, host: str, expected: str) -> None:
    assert ctl("init", "--host=gpu1", "--peer=gpu2=https://gpu2:8447", f"--folder={first.base}").code == 0
    assert ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}").code == 0

    done = ctl("remove", host, f"--folder={first.base}")

    assert (done.code, expected in done.err) == (1, True), done


def test_without_etcd_the_peers_are_named(ctl: Run, first: Folders) -> None:
    assert ctl("init", "--host=gpu1", "--peer=gpu2=https://gpu2:8447", f"--folder={first.base}").code == 0
    assert ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}", machine_id=ONE).code == 0

    done = ctl("remove", "gpu2", f"--folder={first.base}")

    assert (done.code, "remove gpu2 below [fleet.peers]" in done.out) == (0, True), done
    assert json.loads(first.invited.read_text()) == {}


def joined(founded: TlsEtcd, ctl: Run, first: Folders, second: Folders) -> str:
    """Let a second host join; returns its token of etcd."""
    assert ctl("init", f"--folder={first.base}").code == 0
    document = second.base.parent / "bundle"
    document.write_text(ctl("invite", "gpu2", f"--machine-id={TWO}", f"--folder={first.base}").out, encoding="utf-8")
    assert ctl("join", document, f"--folder={second.base}", machine_id=TWO).code == 0
    return founded.token(second.host, "gpu2", second.password.read_text().strip())


def login(host: Folders) -> dict[str, str]:
    return {"name": "gpu2", "password": host.password.read_text().strip()}
