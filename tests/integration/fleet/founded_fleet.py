"""``gpumanctl fleet`` on two hosts, and an etcd with the settings that init has written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from gpumand.cli.app import gpumanctl
from gpumand.cli.fleet_setup.folders import Folders
from gpumand.fleet.certificates import KeyPair
from tests.integration.fleet.tls_etcd import TlsEtcd, free_port, ready

ONE, TWO = "1" * 32, "2" * 32
Run = Callable[..., "Result"]


@dataclass
class Result:
    code: int
    out: str
    err: str


def fleet_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs gpumanctl fleet on the host with a machine id."""

    def run(*arguments: object, machine_id: str = ONE) -> Result:
        monkeypatch.setattr("gpumand.cli.fleet_setup.founding.read_machine_id", lambda: machine_id)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            gpumanctl.main(["fleet", *map(str, arguments)])
        return Result(int(caught.value.code or 0), *capsys.readouterr())

    return run


def member(folders: Folders, port: int) -> TlsEtcd:
    """Start etcd with the settings that init has written, at other ports and as this user."""
    text = folders.member_settings.read_text(encoding="utf-8").replace(":2379", f":{port}")
    peer_port = free_port()
    text = text.replace(":2380", f":{peer_port}").replace("0.0.0.0", "127.0.0.1")
    settings = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    environment = os.environ | settings | {"ETCD_DATA_DIR": str(folders.base / "data")}
    with (folders.base / "log").open("wb") as log:
        process = subprocess.Popen(["etcd"], env=environment, stdout=log, stderr=log)
    url, peer_url = f"https://127.0.0.1:{port}", f"https://127.0.0.1:{peer_port}"
    return TlsEtcd(folders.base, _authority(folders), url, process, peer_url=peer_url)


def _authority(folders: Folders) -> KeyPair:
    return KeyPair(folders.ca_certificate.read_bytes(), folders.ca_key.read_bytes())


@contextmanager
def founded_fleet(ctl: Run, first: Folders) -> Iterator[TlsEtcd]:
    """A fleet whose etcd runs."""
    port = free_port()
    done = ctl("init", "--name=lab", "--host=gpu1", "--address=127.0.0.1", "--etcd", f"--folder={first.base}")
    assert (done.code, "etcd does not answer yet" in done.out) == (0, True), done
    text = first.config.read_text(encoding="utf-8").replace(":2379", f":{port}")
    first.config.write_text(text, encoding="utf-8")
    etcd = member(first, port)
    with ready(etcd):
        yield etcd
