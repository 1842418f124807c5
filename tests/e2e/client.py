"""What people do at a shell: busctl where an answer is wanted, gdbus where an error's name is."""

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
        """Call a method with busctl; its reply as plain values. Raises AssertionError when it is refused."""
        argv = ["busctl", "--json=short", "--timeout=40", "call", NAME, ROOT, MANAGER, method]
        done = self._machine.run([*argv, *([signature] if signature else []), *arguments], user=user, timeout=50)
        reply: list[Any] = plain(json.loads(done.stdout)) if done.stdout.strip() else []
        return reply

    def refusal(self, method: str, *arguments: str, user: str = "") -> tuple[str, str]:
        """Call a method with gdbus, arguments in GVariant text; the error's name and message."""
        argv = ["gdbus", "call", "--system", f"--dest={NAME}", f"--object-path={ROOT}", "--timeout=40"]
        command = [*argv, f"--method={MANAGER}.{method}", *arguments]
        done = self._machine.run(command, user=user, check=False, timeout=50)
        match = re.search(r"GDBus\.Error:([\w.]+): (.*)", done.stderr)
        assert match, f"{method} was not refused:\n{done.stdout}{done.stderr}"
        return match[1], match[2]

    def acquire(self, consumer: str, **options: Option) -> tuple[str, dict[str, Any]]:
        """Acquire; the lease's id and the grant."""
        lease, grant = self.call("Acquire", "sa{sv}", consumer, *packed(options))
        return lease, grant

    def release(self, lease: str) -> None:
        """Release."""
        self.call("Release", "s", lease)

    def status(self) -> dict[str, Any]:
        """GetStatus."""
        (status,) = self.call("GetStatus")
        assert isinstance(status, dict)
        return status

    def consumer(self, name: str) -> dict[str, Any]:
        """One consumer's entry in the status."""
        (entry,) = [entry for entry in self.status()["consumers"] if entry["name"] == name]
        assert isinstance(entry, dict)
        return entry

    def leases(self) -> dict[str, dict[str, Any]]:
        """The leases that stand, by id."""
        return {entry["id"]: entry for entry in self.status()["leases"]}

    def await_memory(self, name: str, used_mib: int) -> None:
        """Wait until a consumer is seen to hold so much."""
        self._machine.wait_until(
            lambda: self.consumer(name).get("used_mib") == used_mib, f"{name} holds {used_mib} MiB"
        )

    def use(self, name: str, used_mib: int) -> dict[str, Any]:
        """Acquire, wait until the memory is seen, and release; the grant."""
        lease, grant = self.acquire(name)
        self.await_memory(name, used_mib)
        self.release(lease)
        return grant

    def await_residency(self, name: str, residency: str, deadline_sec: float = 10) -> dict[str, Any]:
        """Wait until a consumer is what it should be; its entry."""
        what = f"{name} is {residency}"
        self._machine.wait_until(lambda: self.consumer(name)["residency"] == residency, what, deadline_sec)
        return self.consumer(name)


def packed(options: dict[str, Option]) -> list[str]:
    """An ``a{sv}`` as busctl wants it: how many, then key, type and value of each."""
    words = [word for key, value in options.items() for word in (key, TYPES[key], str(value))]
    return [str(len(options)), *words]


def plain(value: Any) -> Any:
    """busctl's JSON without the types of its variants."""
    if isinstance(value, dict):
        if value.keys() == {"type", "data"}:
            return plain(value["data"])
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value
