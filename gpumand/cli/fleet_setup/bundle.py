"""What an invited host gets in one document: its certificate, its key, its password and its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpumand.cli.fleet_setup.toml_text import HostPlan
from gpumand.config.value_types import InvalidValue
from gpumand.fleet.access_config import host_name
from gpumand.fleet.certificates import KeyPair
from gpumand.fleet.config import MAX_PEERS, agent_url, dns_domain
from gpumand.fleet.keys import is_machine_id

FORMAT = "gpumand_fleet_bundle"
VERSION = 1
MAX_BYTES = 256 * 1024
MAX_TEXT = 16 * 1024
MAX_ENDPOINTS = 16


class BadBundle(Exception):
    """The document is no bundle that this version can use; the message is one line."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An invitation.

    Attributes:
        plan: the configuration of the host.
        machine_id: the host that it is for.
        ca: certificate of the authority.
        pair: certificate and key of the host.
        password: its password in etcd; "" without etcd.
        member: certificate and key of a member of etcd on the host; None = none runs there.
    """

    plan: HostPlan
    machine_id: str
    ca: bytes
    pair: KeyPair
    password: str = field(default="", repr=False)
    member: KeyPair | None = None

    def text(self) -> str:
        """The document."""
        plan = self.plan
        document = {
            FORMAT: VERSION,
            "fleet": plan.fleet,
            "host": plan.host,
            "machine_id": self.machine_id,
            "url": plan.url,
            "endpoints": list(plan.endpoints),
            "domain": plan.domain,
            "peers": dict(plan.peers),
            "ca": self.ca.decode("ascii"),
            "certificate": self.pair.certificate.decode("ascii"),
            "key": self.pair.key.decode("ascii"),
            "password": self.password,
        }
        if self.member is not None:
            document |= {"member_certificate": self.member.certificate.decode("ascii")}
            document |= {"member_key": self.member.key.decode("ascii")}
        return json.dumps(document, indent=1) + "\n"


def parse_bundle(data: bytes) -> Bundle:
    """Read a document. Raises BadBundle."""
    if len(data) > MAX_BYTES:
        raise BadBundle(f"it is larger than {MAX_BYTES // 1024} KiB")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise BadBundle("it is not what gpumanctl fleet invite prints") from None
    if not isinstance(document, dict) or document.get(FORMAT) != VERSION:
        raise BadBundle("it is not what this version of gpumanctl fleet invite prints")
    try:
        return _bundle(document)
    except InvalidValue as error:
        raise BadBundle(str(error)) from None


def _bundle(document: Mapping[str, Any]) -> Bundle:
    machine_id = _text(document, "machine_id")
    if not is_machine_id(machine_id):
        raise BadBundle("its machine id is not 32 hex digits")
    member = None
    if "member_key" in document:
        member = KeyPair(_pem(document, "member_certificate"), _pem(document, "member_key"))
    pair = KeyPair(_pem(document, "certificate"), _pem(document, "key"))
    password = document.get("password", "")
    if not isinstance(password, str) or len(password) > 256 or not (password.isprintable() and password.isascii()):
        raise BadBundle("its password is none")
    return Bundle(_plan(document), machine_id, _pem(document, "ca"), pair, password, member)


def _plan(document: Mapping[str, Any]) -> HostPlan:
    endpoints, peers = document.get("endpoints", []), document.get("peers", {})
    if not isinstance(endpoints, list) or len(endpoints) > MAX_ENDPOINTS:
        raise BadBundle("its endpoints are no list of URLs")
    if not isinstance(peers, dict) or len(peers) > MAX_PEERS:
        raise BadBundle("its peers are no table of URLs")
    return HostPlan(
        host_name(_text(document, "fleet")),
        host_name(_text(document, "host")),
        agent_url(_text(document, "url")),
        endpoints=tuple(agent_url(_checked(one)) for one in endpoints),
        peers={host_name(name): agent_url(_checked(url)) for name, url in peers.items()},
        domain=dns_domain(_checked(document["domain"], "domain")) if document.get("domain") else "",
    )


def _text(document: Mapping[str, Any], name: str) -> str:
    return _checked(document.get(name), name)


def _checked(value: object, name: str = "endpoints") -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise BadBundle(f"its {name} is missing or no text")
    return value


def _pem(document: Mapping[str, Any], name: str) -> bytes:
    text = _text(document, name)
    if not text.isascii():
        raise BadBundle(f"its {name} is not in PEM form")
    return text.encode("ascii")
