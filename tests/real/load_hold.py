"""Keeps a model of a router in the middle of its load for as long as a test needs."""

from __future__ import annotations

from types import TracebackType

from tests.e2e.installation import ENVIRONMENT
from tests.e2e.machine import close
from tests.real.host import RealHost


class LoadHold:
    """Stops the next load of a model in its middle, until ``release`` or the end of the ``with`` statement."""

    def __init__(self, host: RealHost, unit: str, model: str) -> None:
        """Start watching the unit's main process for a child that loads this model."""
        self._machine = host.machine
        arguments = [str(host.machine.main_pid(unit)), model]
        self._watching = host.machine.start(
            ["env", *ENVIRONMENT.split(), "python3", "-m", "tests.real.stop_child", *arguments]
        )
        self._pid = ""

    def caught(self) -> int:
        """Wait until the process that loads the model is stopped, and return its pid."""
        printed, said = self._watching.communicate(timeout=50)
        assert self._watching.returncode == 0, f"no process started to load the model: {said}"
        self._pid = printed.strip()
        return int(self._pid)

    def release(self) -> None:
        """Continue the load. May be called again."""
        if self._pid:
            self._machine.run(["kill", "-CONT", self._pid], check=False)

    def __enter__(self) -> LoadHold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close(self._watching)
        self.release()
