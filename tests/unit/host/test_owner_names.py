"""Names of the owners of leases."""

from __future__ import annotations

import asyncio
import os
import pwd
import time

from gpumand.domain.lease import Owner
from gpumand.host.owner_names import OwnerNames
from gpumand.host.users import UserDirectory
from gpumand.vram.process import command_name

USER = pwd.getpwuid(os.getuid()).pw_name
UNUSED_PID = 2**22 + 1


async def test_a_connected_client_is_named_without_waiting_once_its_user_is_known() -> None:
    users = UserDirectory()
    names, owner = OwnerNames(users), Owner(":1.1", os.getuid(), os.getpid())
    before = names.known(owner)
    found = await names.look_up(owner, time.time_ns() // 1000)
    after = names.known(owner)
    await users.close()

    assert (before.user, before.program) == ("", command_name(os.getpid()))
    assert (found.user, found.program) == (USER, command_name(os.getpid()))
    assert (after.user, after.program) == (found.user, found.program)


async def test_a_process_that_started_after_the_grant_is_not_the_owner() -> None:
    users = UserDirectory()
    granted_usec = (time.time_ns() - 60 * 10**9) // 1000
    process = await asyncio.create_subprocess_exec("sleep", "60")
    reused = Owner(":1.1", os.getuid(), process.pid)
    named = await OwnerNames(users).look_up(reused, granted_usec)
    process.kill()
    await process.wait()
    await users.close()

    assert (named.user, named.program) == (USER, "")


async def test_an_owner_that_ended_keeps_the_name_of_its_user() -> None:
    users = UserDirectory()
    named = await OwnerNames(users).look_up(Owner(":1.1", os.getuid(), UNUSED_PID), 0)
    unknown = await OwnerNames(users).look_up(Owner(":1.1", 4294967200), 0)
    await users.close()

    assert (named.user, named.program) == (USER, "")
    assert (unknown.user, unknown.program) == ("", "")
