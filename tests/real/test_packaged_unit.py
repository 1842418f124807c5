"""Debian's own unit llama-server.service is a router unless its settings name a model."""

from __future__ import annotations

import tomllib

from tests.real.host import PACKAGED_PORT, PACKAGED_UNIT, RealHost

MODEL = "llama"


def test_init_recognises_the_router(host: RealHost) -> None:
    host.packaged_router()
    host.serve(PACKAGED_UNIT, PACKAGED_PORT)

    text = host.machine.run(["gpumanctl", "init", "--source=none"]).stdout

    consumers = tomllib.loads(text)["consumers"]
    found = [one for one in consumers.values() if one["unit"] == PACKAGED_UNIT]
    assert {one["preset"] for one in found} == {"llama-cpp-router"}
    assert {one["model"] for one in found} == {MODEL}
    assert {one["url"] for one in found} == {f"http://127.0.0.1:{PACKAGED_PORT}"}
