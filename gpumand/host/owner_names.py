"""Names of the owners of leases, for people: the login name of the user and the short name of the process."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.lease import Owner
from gpumand.host.users import UserDirectory
from gpumand.vram.process import command_name, started_after


class OwnerNames:
    """Adds names to owners. None of its methods blocks the event loop: reading /proc/PID/comm never waits."""

    def __init__(self, users: UserDirectory) -> None:
        self._users = users

    def known(self, owner: Owner) -> Owner:
        """Return the owner, whose process is running now, with the names that are known without waiting."""
        return replace(owner, user=self._users.cached(owner.uid), program=_program(owner.pid))

    async def look_up(self, owner: Owner, since_usec: int) -> Owner:
        """Return the owner with all names that can be found; an unknown name is "".

        Args:
            owner: the owner, whose process may have ended.
            since_usec: CLOCK_REALTIME at which its process was running. A process that started later has only the same
                pid, and its name is not that of the owner.
        """
        user = owner.user or await self._users.name_of(owner.uid)
        reused = not owner.program and started_after(owner.pid, since_usec / 1e6)
        return replace(owner, user=user, program=owner.program or ("" if reused else _program(owner.pid)))


def _program(pid: int) -> str:
    return command_name(pid) if pid > 0 else ""
