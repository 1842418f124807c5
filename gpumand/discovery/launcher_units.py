"""Units that start programs of other users or of many kinds, such as cron, sshd, tmux, PM2 and Jupyter.

A server that runs in one of them is not that unit: to stop the unit would end the login or the other programs too.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_BY_KIND = {
    "jobs": "cron crond cronie fcron anacron atd slurmd",
    # Without pam_systemd, all processes of a login stay in the unit of the server.
    "logins": "ssh ssh@* sshd sshd@* dropbear* getty@* serial-getty@* console-getty tmux tmux@* screen screen@*",
    "desktops and boot": "display-manager gdm* lightdm sddm greetd xrdp* user@* rc-local cloud-final",
    "supervisors": "supervisor supervisord pm2 pm2-* circus circusd monit runit runsvdir* s6-svscan snapd",
    "notebooks": "jupyter* code-server* openvscode-server* rstudio-server cockpit* ttyd* wetty* webmin",
    # Their containers are consumers of their own, if they were recognised.
    "engines of containers": "docker containerd podman crio k3s k3s-agent kubelet lxc lxc@* nomad",
}
_NAMES = tuple(name for names in _BY_KIND.values() for name in names.split())


def starts_other_programs(unit: str) -> bool:
    """Whether a unit starts programs that it does not stand for.

    Args:
        unit: name of a unit; only services can be consumers.
    """
    name, is_service = unit.removesuffix(".service"), unit.endswith(".service")
    return is_service and any(fnmatchcase(name.lower(), one) for one in _NAMES)
