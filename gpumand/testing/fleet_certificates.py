"""Certificates of a private fleet. They need the library cryptography, as ``gpumanctl fleet init`` does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gpumand.fleet.settings import TlsFiles

ADDRESS = "127.0.0.1"


def issue(folder: Path, fleet: str, hosts: Iterable[str]) -> dict[str, TlsFiles]:
    """Write an authority and a certificate for each host into a folder; all hosts are on this machine.

    Args:
        folder: the folder.
        fleet: name of the fleet.
        hosts: names of the hosts.
    """
    from gpumand.fleet.certificates import create_ca, create_host

    authority = create_ca(fleet)
    (folder / "ca.crt").write_bytes(authority.certificate)
    issued: dict[str, TlsFiles] = {}
    for host in hosts:
        pair = create_host(authority, fleet, (host, ADDRESS))
        issued[host] = TlsFiles(folder / "ca.crt", folder / f"{host}.crt", folder / f"{host}.key")
        issued[host].certificate.write_bytes(pair.certificate)
        issued[host].key.write_bytes(pair.key)
    return issued
