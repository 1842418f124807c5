"""Starts a private message bus for tests: a real dbus-daemon with a given policy, or one that allows everything.

The limits of the default configuration are those of a session bus. The system bus allows 128 unanswered calls and 512
match rules per connection.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

START_TIMEOUT_SEC = 10.0
STOP_TIMEOUT_SEC = 5.0

ALLOW_EVERYTHING = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>{kind}</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="signal"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
  </policy>
  {limits}
</busconfig>
"""
SESSION_LIMITS = """<limit name="max_replies_per_connection">50000</limit>
  <limit name="max_match_rules_per_connection">50000</limit>"""


class PrivateBus:
    """A dbus-daemon that runs as long as this object is open.

    ``with PrivateBus() as bus`` starts and stops it; ``async with`` does the same without blocking the event loop.

    Args:
        config: configuration file of the daemon, which must have a <listen> element. By default everything is allowed.
        kind: bus type in the default configuration: "session" or "system".
        has_system_limits: keep the built-in limits of dbus-daemon, which are those of a system bus.

    Attributes:
        address: address of the bus; "" until it is started.
    """

    def __init__(self, config: Path | None = None, kind: str = "session", *, has_system_limits: bool = False) -> None:
        self.address = ""
        self._config = config
        self._kind = kind
        self._limits = "" if has_system_limits else SESSION_LIMITS
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> PrivateBus:
        """Start the daemon and wait until it listens. Raises RuntimeError with the daemon's output if it fails."""
        self._folder = Path(tempfile.mkdtemp(prefix="gpumand-bus-"))
        config = self._config or self._write_config(self._folder)
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                ["dbus-daemon", "--nofork", "--nopidfile", "--nosyslog", "--print-address", f"--config-file={config}"],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.address = self._read_address()
        if not self.address:
            output = self.log_text()
            self.close()
            raise RuntimeError(f"dbus-daemon did not start: {output or 'it printed no message'}")
        return self

    @property
    def pid(self) -> int:
        """Process id of the daemon. Raises RuntimeError if it is not running."""
        if self._process is None:
            raise RuntimeError("the bus is not started")
        return self._process.pid

    def log_text(self) -> str:
        """Return the daemon's output on stderr."""
        if self._folder is None:
            return ""
        return (self._folder / "log").read_text(errors="replace").strip()

    def pause(self) -> None:
        """Stop the daemon's process, so that it handles no messages, as a bus under load does."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the daemon's process."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the daemon, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_SEC)

    def close(self) -> None:
        """Kill the daemon and remove its files; may be called again."""
        if self._process is not None:
            self.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> PrivateBus:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PrivateBus:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _write_config(self, folder: Path) -> Path:
        config = folder / "bus.conf"
        config.write_text(ALLOW_EVERYTHING.format(folder=folder, kind=self._kind, limits=self._limits))
        return config

    def _read_address(self) -> str:
        """Return the first line of the daemon's stdout; "" if it exits or prints nothing in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT_SEC
        output = b""
        while not output.endswith(b"\n") and (left_sec := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self._process.stdout], [], [], left_sec)
            chunk = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not chunk:
                break
            output += chunk
        return output.decode().strip() if output.endswith(b"\n") else ""
