"""Runs one agent of a fleet with a configuration from the command line, for tests with several hosts on one machine.

usage: python -m tests.integration.fleet.agent_process JSON

Hosts on one machine have the same /etc/machine-id, which fleet.toml cannot change, so the configuration is passed as a
value.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpumand.fleet.process import run
from gpumand.fleet.settings import EtcdConfig, FleetConfig, TlsFiles


def config_of(text: str) -> FleetConfig:
    """The configuration that a JSON object describes; its keys are the attributes."""
    fields = json.loads(text)
    if endpoints := fields.pop("etcd", None):
        fields["etcd"] = EtcdConfig(tuple(endpoints))
    if files := fields.pop("tls", None):
        fields["tls"] = TlsFiles(*map(Path, files))
    fields["socket"] = Path(fields["socket"])
    fields["listen"] = tuple(fields["listen"])
    fields["allow"] = {name: frozenset(rights) for name, rights in fields["allow"].items()}
    return FleetConfig(**fields)


if __name__ == "__main__":
    run(lambda: config_of(sys.argv[1]))
