"""A wait for a lease, on the command line: who holds it, until when, and the command that ends it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
from pathlib import Path

from tests.integration.cli.ctl import Screen
from tests.integration.cli.world import world

USER = pwd.getpwuid(os.getuid()).pw_name
PROGRAM = os.path.basename(sys.executable)[:15]
ONE_LEASE = "concurrent_leases = 1"


async def test_a_timeout_names_the_lease_also_after_a_restart_and_its_command_ends_it(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=ONE_LEASE) as (host, ctl):
        holder = await ctl.start("run", "--reason", "nightly render", "llm", "--", "sh", "-c", "echo up; exec sleep 60")
        assert holder.stdout is not None
        await holder.stdout.readline()
        lease = json.loads((await ctl("--json", "status")).out)["leases"][0]["id"][:6]
        expected = (
            "gpumanctl: timed out after 0.5 s waiting for comfyui: device 0 is leased to llm "
            f"(lease {lease}, user {USER}, {PROGRAM}, 'nightly render', until its client disconnects). "
            f"Wait longer with --timeout, or release it: gpumanctl release {lease}.\n"
        )

        first = await ctl("acquire", "comfyui", "--timeout", "500ms")
        await host.end(signal.SIGKILL)
        await host.start()
        after_restart = await ctl("acquire", "comfyui", "--timeout", "500ms")
        plan = await ctl("plan", "comfyui")
        released = await ctl("release", lease)
        granted = await ctl("acquire", "comfyui")
        holder.kill()
        await holder.wait()

    assert (first.code, first.err) == (1, expected)
    assert after_restart.err == expected
    assert f"(lease {lease}, user {USER}, {PROGRAM}, 'nightly render', until its client disconnects)" in " ".join(
        plan.out.split()
    )
    assert (released.code, granted.code) == (0, 0)


async def test_the_progress_line_and_the_queue_name_the_lease(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=ONE_LEASE) as (_, ctl):
        lease = (await ctl("acquire", "llm", "--reason", "nightly render")).out.strip()
        screen = await Screen.start(ctl, "acquire", "comfyui", "--wait", columns=300)
        await screen.wait_for(f"comfyui: waiting: device 0 is leased to llm (lease {lease[:6]}, user {USER}, ")
        (queued,) = json.loads((await ctl("--json", "status")).out)["queue"]
        screen.type(b"\x03")
        await screen.end()

    assert f"(lease {lease[:6]}, user {USER}, " in queued["waiting_for"]
    assert ", 'nightly render', ends in 15 min). Release it: gpumanctl release " in queued["waiting_for"]
