"""A real etcd with TLS and client certificates, for tests of access."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpumand.fleet.certificates import KeyPair, create_ca, create_host
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.tls import client_context

START_SEC = 30.0
needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd (package etcd-server)")


def written(folder: Path, name: str, pair: KeyPair, ca: bytes) -> TlsFiles:
    """Write a certificate with its key and authority into a folder."""
    files = TlsFiles(folder / f"{name}.ca", folder / f"{name}.crt", folder / f"{name}.key")
    for path, content in zip((files.ca, files.certificate, files.key), (ca, pair.certificate, pair.key), strict=True):
        path.write_bytes(content)
    return files


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class TlsEtcd:
    """A running etcd that requires client certificates."""

    folder: Path
    ca: KeyPair
    url: str
    process: subprocess.Popen[bytes]
    command: list[str] = field(default_factory=list)
    peer_url: str = ""

    def restart(self) -> None:
        """Start the member again after its end."""
        self.process = started(self.command, self.folder)

    def client(self, name: str) -> TlsFiles:
        """The files of a new certificate of this authority."""
        return written(self.folder, name, create_host(self.ca, "lab", (name,)), self.ca.certificate)

    def post(self, files: TlsFiles, path: str, body: dict[str, Any], token: str = "") -> tuple[int, dict[str, Any]]:
        """Call etcd and return the status and the answer."""
        return asyncio.run(self._post(files, path, body, token))

    async def _post(self, files: TlsFiles, path: str, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        connector = aiohttp.TCPConnector(ssl=client_context(files))
        headers = {"Authorization": token} if token else {}
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"{self.url}/v3/{path}", json=body, headers=headers) as answer,
        ):
            return answer.status, json.loads(await answer.read())

    def put(self, files: TlsFiles, key: str, token: str = "") -> tuple[int, str]:
        """Write a key; return the status and the message of a refusal."""
        status, answer = self.post(files, "kv/put", {"key": encoded(key), "value": encoded("x")}, token)
        return status, str(answer.get("message", ""))

    def token(self, files: TlsFiles, user: str, password: str) -> str:
        status, answer = self.post(files, "auth/authenticate", {"name": user, "password": password})
        assert status == 200, answer
        return str(answer["token"])


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[TlsEtcd]:
    """Start etcd with one member in a folder, and end it."""
    ca = create_ca("lab")
    server = written(folder, "server", create_host(ca, "lab", ("etcd", "localhost", "127.0.0.1")), ca.certificate)
    client_port, peer_port = free_port(), free_port()
    peers = f"http://127.0.0.1:{peer_port}"
    url = f"https://127.0.0.1:{client_port}"
    command = ["etcd", "--name=one", f"--data-dir={folder}/data", f"--listen-client-urls={url}"]
    command += [f"--advertise-client-urls={url}", f"--listen-peer-urls={peers}", "--logger=zap"]
    command += [f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=one={peers}", "--client-cert-auth"]
    command += [f"--trusted-ca-file={server.ca}", f"--cert-file={server.certificate}", f"--key-file={server.key}"]
    etcd = TlsEtcd(folder, ca, url, started(command, folder), command)
    with ready(etcd):
        yield etcd


@contextlib.contextmanager
def ready(etcd: TlsEtcd) -> Iterator[None]:
    """Wait until a started etcd answers, and end it afterwards."""
    try:
        await_ready(etcd)
        yield
    finally:
        etcd.process.terminate()
        etcd.process.wait()


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def await_ready(etcd: TlsEtcd) -> None:
    files, deadline = etcd.client("probe"), time.monotonic() + START_SEC
    while True:
        try:
            etcd.post(files, "maintenance/status", {})
        except (aiohttp.ClientError, OSError):
            assert time.monotonic() < deadline, (etcd.folder / "log").read_text(encoding="utf-8")
            time.sleep(0.1)
        else:
            return
