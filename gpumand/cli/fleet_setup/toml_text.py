"""The text of a new fleet.toml, and of the settings of a member of etcd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpumand.cli.fleet_setup.folders import Folders
from gpumand.config.toml_writer import to_toml, toml_key
from gpumand.fleet.certificates import member_name

ALL_RIGHTS = ("acquire", "plan", "load", "drain")


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What the configuration of a host contains.

    Attributes:
        fleet: name of the fleet.
        host: name of the host.
        url: URL of its agent.
        gateway_url: URL of its gateway for other hosts; "" = none.
        endpoints: members of etcd; () = there is no etcd.
        peers: URLs of the agents of other hosts, by name.
        domain: DNS domain whose SRV records list the members of etcd, in place of ``endpoints``; "" = none.
    """

    fleet: str
    host: str
    url: str
    gateway_url: str = ""
    endpoints: tuple[str, ...] = ()
    peers: Mapping[str, str] = field(default_factory=dict)
    domain: str = ""


def fleet_toml(plan: HostPlan, folders: Folders) -> str:
    """The configuration of a host."""
    values = {"name": plan.fleet, "host": plan.host, "url": plan.url}
    values |= {"gateway_url": plan.gateway_url} if plan.gateway_url else {}
    values |= {"ca": str(folders.host.ca), "certificate": str(folders.host.certificate), "key": str(folders.host.key)}
    lines = ["# Written by gpumanctl fleet. See fleet.toml(5).", "[fleet]", *_lines(values)]
    if not plan.gateway_url:
        lines.append("# Where other hosts reach the gateway of this host, which must listen there. Its unit must")
        lines.append("# permit their addresses: systemctl edit gpumand-gateway, with [Service] and IPAddressAllow=")
        lines.append(f'# gateway_url = "http://{_authority(plan.url)}:8770"')
    if plan.endpoints or plan.domain:
        members = {"endpoints": list(plan.endpoints)} if plan.endpoints else {"domain": plan.domain}
        lines += ["", "[fleet.etcd]", *_lines(members | {"password_file": str(folders.password)})]
    if plan.peers:
        lines += ["", "# Hosts that are asked directly.", "[fleet.peers]", *_lines(plan.peers)]
    lines += ["", "# What other hosts may do here. A host with an entry of its own has only the rights of that entry."]
    lines += ["[fleet.allow]", *_lines({"*": list(ALL_RIGHTS)})]
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, object]) -> list[str]:
    return [f"{toml_key(name)} = {to_toml(value)}" for name, value in values.items()]


def _authority(url: str) -> str:
    return url.partition("://")[2].rpartition(":")[0]


def etcd_settings(fleet: str, host: str, address: str, folders: Folders) -> str:
    """Settings of the first member of etcd, in the form of /etc/default/etcd.

    Args:
        fleet: name of the fleet.
        host: name of the host.
        address: host name or IP address at which other hosts reach it.
        folders: where the certificates are.
    """
    files, client, peer = folders.member, f"https://{address}:2379", f"https://{address}:2380"
    lines = [
        f"ETCD_NAME={host}",
        f"ETCD_INITIAL_CLUSTER={host}={peer}",
        "ETCD_INITIAL_CLUSTER_STATE=new",
        "ETCD_LISTEN_CLIENT_URLS=https://0.0.0.0:2379",
        f"ETCD_ADVERTISE_CLIENT_URLS={client}",
        "ETCD_LISTEN_PEER_URLS=https://0.0.0.0:2380",
        f"ETCD_INITIAL_ADVERTISE_PEER_URLS={peer}",
        *_tls("ETCD", (str(files.ca), str(files.certificate), str(files.key))),
        *_tls("ETCD_PEER", (str(files.ca), str(files.certificate), str(files.key))),
        # Without it, the certificate of each host of the fleet would be that of a member, which may write every key.
        f"ETCD_PEER_CERT_ALLOWED_HOSTNAME={member_name(fleet)}",
        # The default from etcd 3.5: a member that was cut off causes no election when it is back.
        "ETCD_PRE_VOTE=true",
        # Without it, the history of a busy fleet fills the quota of 2 GiB.
        "ETCD_AUTO_COMPACTION_MODE=periodic",
        "ETCD_AUTO_COMPACTION_RETENTION=1h",
    ]
    return "# Written by gpumanctl fleet, for /etc/default/etcd.\n" + "\n".join(lines) + "\n"


def _tls(prefix: str, files: Sequence[str]) -> list[str]:
    ca, certificate, key = files
    names = (f"{prefix}_TRUSTED_CA_FILE={ca}", f"{prefix}_CERT_FILE={certificate}", f"{prefix}_KEY_FILE={key}")
    return [f"{prefix}_CLIENT_CERT_AUTH=true", *names]
