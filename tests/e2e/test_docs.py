"""The commands in the documentation, run unchanged."""

from __future__ import annotations

import pytest

from tests.blocks import Block, blocks
from tests.e2e.container import REPOSITORY
from tests.e2e.host import Host

SHOWN = [one for one in blocks(REPOSITORY) if one.language == "console"]


@pytest.fixture
def shown_host(host: Host) -> Host:
    """A host with the consumers of the documentation; the daemon is started by bus activation."""
    host.holder("llm", 6144)
    host.holder("comfyui", 13312)
    return host


@pytest.mark.parametrize("block", [pytest.param(one, id=str(one)) for one in SHOWN])
def test_commands_in_the_documentation_work(shown_host: Host, block: Block) -> None:
    for line in block.commands():
        shown_host.machine.run(["bash", "-c", line], timeout=60)
