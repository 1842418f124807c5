"""The hosts that were invited from this one: the file beside the certificate authority."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet_setup.files import SECRET, NewFile, read_bytes, write_again
from gpumand.cli.fleet_setup.folders import Folders


@dataclass(frozen=True, slots=True)
class InvitedHost:
    """A host that was invited.

    Attributes:
        machine_id: its machine id.
        addresses: the addresses of its last certificate.
    """

    machine_id: str
    addresses: tuple[str, ...] = ()


def invited_hosts(folders: Folders) -> dict[str, InvitedHost]:
    """The hosts that were invited, by name. Raises Failure if their file cannot be read."""
    if not folders.invited.exists():
        return {}
    try:
        document: Any = json.loads(read_bytes(folders.invited))
    except ValueError:
        raise Failure(ExitCode.FAILURE, f"{folders.invited} is no JSON. Restore it, or move it away") from None
    return {str(name): _host(one) for name, one in document.items()} if isinstance(document, dict) else {}


def write_invited(hosts: Mapping[str, InvitedHost], folders: Folders) -> None:
    """Write the hosts that were invited. Raises Failure."""
    document = {name: {"machine_id": one.machine_id, "addresses": one.addresses} for name, one in hosts.items()}
    write_again(NewFile(folders.invited, (json.dumps(document, indent=1) + "\n").encode(), SECRET))


def _host(entry: Any) -> InvitedHost:
    if not isinstance(entry, dict):  # the form before addresses were kept
        return InvitedHost(str(entry))
    addresses = entry.get("addresses")
    kept = tuple(str(one) for one in addresses) if isinstance(addresses, list) else ()
    return InvitedHost(str(entry.get("machine_id", "")), kept)
