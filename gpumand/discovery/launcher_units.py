"""Units that start programs of other users or of many kinds, such as cron, sshd, tmux, PM2 and Jupyter.

A server that runs in one of them is not that unit: to stop the unit would end the login or the other programs too.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_NAMES = (
    # jobs
    *("cron", "crond", "cronie", "fcron", "anacron", "atd", "slurmd", "pbs*", "run-parts*"),
    # logins and desktops; without pam_systemd, all processes of a login stay in the unit of the server
    *("ssh", "ssh@*", "sshd", "sshd@*", "dropbear*", "getty@*", "serial-getty@*", "console-getty", "tmux*", "screen*"),
    *("display-manager", "gdm*", "lightdm", "sddm", "greetd", "xrdp*", "user@*", "rc-local", "cloud-final"),
    # supervisors of several programs
    *("supervisor", "supervisord", "pm2-*", "pm2", "circus*", "monit", "runit", "runsvdir*", "s6*", "snapd"),
    # terminals and notebooks in the browser
    *("jupyter*", "code-server*", "openvscode-server*", "rstudio-server", "cockpit*", "ttyd*", "wetty*", "webmin"),
    # engines of containers whose containers were not recognised
    *("docker", "containerd", "podman", "crio", "k3s*", "kubelet", "lxc*", "nomad*"),
)


def starts_other_programs(unit: str) -> bool:
    """Whether a unit starts programs that it does not stand for.

    Args:
        unit: name of a unit; only services can be consumers.
    """
    name, is_service = unit.removesuffix(".service"), unit.endswith(".service")
    return is_service and any(fnmatchcase(name.lower(), one) for one in _NAMES)
