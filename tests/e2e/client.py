"""D-Bus calls as users type them in a shell: with busctl for replies, with gdbus for names of errors."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.e2e.machine import Machine

NAME = "org.gpumand1"
ROOT = "/org/gpumand1"
MANAGER = "org.gpumand1.Manager"
ERROR = "org.gpumand1.Error."
TYPES = {"lifetime": "s", "ttl_usec": "t", "timeout_usec": "t", "priority": "i", "device": "s", "reason": "s"}
TYPES |= {"token": "s"}
Option = str | int


class Client:
    """Calls on org.gpumand1.Manager."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def call(self, method: str, signature: str = "", *arguments: str, user: str = "") -> list[Any]:
        """Call a method with busctl and return its reply as plain values. Raises AssertionError if it is refused."""
        argv = ["busctl", "--json=short", "--timeout=40", "call", NAME, ROOT, MANAGER, method]
        done = self._machine.run([*argv, *([signature] if signature else []), *arguments], user=user, timeout=50)
        reply: list[Any] = plain(json.loads(done.stdout)) if done.stdout.strip() else []
        return reply

    def refusal(self, method: str, *arguments: str, user: str = "") -> tuple[str, str]:
        """Call a method with gdbus, arguments in GVariant text. Returns the name and message of the error."""
        argv = ["gdbus", "call", "--system", f"--dest={NAME}", f"--object-path={ROOT}", "--timeout=40"]
        command = [*argv, f"--method={MANAGER}.{method}", *arguments]
        done = self._machine.run(command, user=user, check=False, timeout=50)
        match = re.search(r"GDBus\.Error:([\w.]+): (.*)", done.stderr)
        assert match, f"{method} was not refused:\n{done.stdout}{done.stderr}"
        return match[1], match[2]

    def acquire(self, consumer: str, **options: Option) -> tuple[str, dict[str, Any]]:
        """Call Acquire. Returns the lease id and the grant."""
        lease, grant = self.call("Acquire", "sa{sv}", consumer, *packed(options))
        return lease, grant

    def release(self, lease: str) -> None:
        """Release a lease."""
        self.call("Release", "s", lease)

    def status(self) -> dict[str, Any]:
        """Return the status of the daemon."""
        (status,) = self.call("GetStatus")
        assert isinstance(status, dict)
        return status

    def consumer(self, name: str) -> dict[str, Any]:
        """Return the status of one consumer."""
        (entry,) = [entry for entry in self.status()["consumers"] if entry["name"] == name]
        assert isinstance(entry, dict)
        return entry

    def leases(self) -> dict[str, dict[str, Any]]:
        """Return the active leases by id."""
        return {entry["id"]: entry for entry in self.status()["leases"]}

    def await_memory(self, name: str, used_mib: int) -> None:
        """Wait until the status shows this memory use for a consumer."""
        self._machine.wait_until(
            lambda: self.consumer(name).get("used_mib") == used_mib, f"{name} holds {used_mib} MiB"
        )

    def use(self, name: str, used_mib: int) -> dict[str, Any]:
        """Acquire a consumer, wait until its memory shows in a reading, and release it. Returns the grant."""
        lease, grant = self.acquire(name)
        self.await_memory(name, used_mib)
        self.release(lease)
        return grant

    def await_residency(self, name: str, residency: str, deadline_sec: float = 30) -> dict[str, Any]:
        """Wait until a consumer has this residency. Returns its status."""
        what = f"{name} is {residency}"
        self._machine.wait_until(lambda: self.consumer(name)["residency"] == residency, what, deadline_sec)
        return self.consumer(name)


def packed(options: dict[str, Option]) -> list[str]:
    """Return an ``a{sv}`` in the notation of busctl: the number of entries, then key, type and value of each."""
    words = [word for key, value in options.items() for word in (key, TYPES[key], str(value))]
    return [str(len(options)), *words]


def plain(value: Any) -> Any:
    """Return the JSON of busctl without the types of variants."""
    if isinstance(value, dict):
        if value.keys() == {"type", "data"}:
            return plain(value["data"])
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value
