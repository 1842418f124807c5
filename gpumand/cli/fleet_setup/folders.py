"""Where the files of a fleet are, below /etc/gpumand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpumand.fleet.settings import TlsFiles

DEFAULT_FOLDER = Path("/etc/gpumand")


@dataclass(frozen=True, slots=True)
class Folders:
    """The files of one host.

    Attributes:
        base: /etc/gpumand, or another folder for tests and for images of hosts.
    """

    base: Path = DEFAULT_FOLDER

    @property
    def config(self) -> Path:
        """The configuration of gpumand-fleet."""
        return self.base / "fleet.toml"

    @property
    def host(self) -> TlsFiles:
        """Certificates of this host, which systemd passes to the service."""
        folder = self.base / "fleet"
        return TlsFiles(folder / "ca.crt", folder / "host.crt", folder / "host.key")

    @property
    def password(self) -> Path:
        """Password of this host in etcd."""
        return self.base / "fleet" / "etcd-password"

    @property
    def ca_certificate(self) -> Path:
        """Certificate of the authority, on the host that created the fleet."""
        return self.base / "fleet-ca" / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Private key of the authority."""
        return self.base / "fleet-ca" / "ca.key"

    @property
    def root_password(self) -> Path:
        """Password of etcd's user root."""
        return self.base / "fleet-ca" / "etcd-root-password"

    @property
    def invited(self) -> Path:
        """The hosts that were invited, with their machine ids and addresses."""
        return self.base / "fleet-ca" / "hosts.json"

    @property
    def member(self) -> TlsFiles:
        """Certificates of a member of etcd on this host; the group etcd may read them."""
        folder = self.base / "fleet-etcd"
        return TlsFiles(folder / "ca.crt", folder / "member.crt", folder / "member.key")

    @property
    def member_settings(self) -> Path:
        """Settings of this member, for /etc/default/etcd."""
        return self.base / "fleet-etcd" / "etcd.default"
