"""``gpumanctl fleet remove``: a host that has left, or was stolen, can use neither etcd nor what remembers it."""

from __future__ import annotations

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet_setup.folders import Folders
from gpumand.cli.fleet_setup.founding import configuration, etcd_admin
from gpumand.cli.fleet_setup.invited import invited_hosts, write_invited
from gpumand.fleet.etcd_roles import EtcdAbsent
from gpumand.fleet.settings import FleetConfig

MEMBER = "If a member of etcd ran on it, remove the member: etcdctl member list, etcdctl member remove ID"


async def remove(host: str, folders: Folders) -> list[str]:
    """End the access of a host to etcd, and forget it.

    The row, the leases and the claims of the host in etcd end with it.

    Args:
        host: its name.
        folders: where the files of this host are.

    Returns:
        What is left to do, a line each.

    Raises:
        Failure: the host was not invited from here, or etcd does not answer; nothing was forgotten.
    """
    settings, invited = configuration(folders), invited_hosts(folders)
    if host == settings.host:
        message = f"{host} is this host, with the certificate authority. Remove the package gpumand-fleet instead"
        raise Failure(ExitCode.FAILURE, message)
    if host not in invited:
        known = ", ".join(sorted(invited)) or "none"
        raise Failure(ExitCode.FAILURE, f"no host {host} was invited from this host. Invited hosts: {known}")
    if settings.etcd is not None:
        await _end_access(host, invited[host].machine_id, folders, settings)
    write_invited({name: one for name, one in invited.items() if name != host}, folders)
    return _left_to_do(host, settings)


async def _end_access(host: str, machine_id: str, folders: Folders, settings: FleetConfig) -> None:
    try:
        async with etcd_admin(folders, settings) as admin:
            if await admin.log_in():
                await admin.remove_access(host, settings.fleet, machine_id)
    except EtcdAbsent as error:
        raise Failure(ExitCode.FAILURE, f"{error}. Start etcd, then run gpumanctl fleet remove again") from None


def _left_to_do(host: str, settings: FleetConfig) -> list[str]:
    lines = [f"Its certificate is valid until it expires. On every other host, add below [fleet.allow]: {host} = []"]
    if settings.etcd is None or settings.peers:
        lines.append(f"On every other host, remove {host} below [fleet.peers]")
    lines.append("Then, on each of them: systemctl restart gpumand-fleet")
    return [*lines, *([MEMBER] if settings.etcd is not None else [])]
