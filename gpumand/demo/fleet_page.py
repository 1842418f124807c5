"""The gateway of one host of the fleet that is demonstrated, whose web page shows all hosts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from gpumand.testing.ports import free_ports

START_SEC = 60.0
POLL_SEC = 0.1
CALL_SEC = 10.0
ATTEMPTS = 5
"""Another process can take a free port before the gateway does."""


class FleetPage:
    """``gpumand-gateway`` with ``[gateway.fleet]``; it runs as long as this object is open.

    Args:
        bus: D-Bus address of the host's bus.
        agent: socket of the host's gpumand-fleet.

    Attributes:
        url: address of the web page; "" until it is started.
    """

    def __init__(self, bus: str, agent: Path) -> None:
        self.url = ""
        self._bus, self._agent = bus, agent
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def states(self) -> dict[str, str]:
        """The state of each host that the page shows, by its name. Raises OSError and ValueError."""
        with urllib.request.urlopen(f"{self.url}v1/fleet", timeout=CALL_SEC) as answer:
            fleet = json.load(answer)["fleet"]
        return {one["row"]["name"]: one["state"] for one in fleet.get("hosts") or []}

    def start(self) -> FleetPage:
        """Start the gateway and wait until it serves. Raises RuntimeError with its log if it does not."""
        self._folder = Path(tempfile.mkdtemp(prefix="gpumand-fleet-page-"))
        try:
            if not any(self._serves(port) for _ in range(ATTEMPTS) for port in free_ports(1)):
                raise RuntimeError(f"the gateway did not start: {self._log.read_text(errors='replace')[-2000:]}")
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill the gateway and remove its files; may be called again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> FleetPage:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _log(self) -> Path:
        return self._folder / "gateway.log"

    def _serves(self, port: int) -> bool:
        """Start the gateway at a port, and wait until it answers; False if it ends, or does not in time."""
        file = self._folder / "gateway.toml"
        file.write_text(_config(port, self._folder, self._agent), encoding="utf-8")
        command = [sys.executable, "-m", "gpumand.gateway", f"--config={file}", f"--bus-address={self._bus}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.url = f"http://127.0.0.1:{port}/gateway/"
        deadline = time.monotonic() + START_SEC
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError, ValueError):
                self.states()
                return True
            time.sleep(POLL_SEC)
        self._process.kill()
        self._process.wait()
        return False


def _config(port: int, folder: Path, agent: Path) -> str:
    text = f'[gateway]\nlisten = "127.0.0.1:{port}"\nstate_dir = "{folder}"\n'
    return text + f'[gateway.fleet]\nenabled = true\nsocket = "{agent}"\n'
