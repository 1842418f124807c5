"""The default order of eviction methods of consumers in containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config import load
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod

HTTP, UNIT, CONTAINER = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP, EvictionMethod.CONTAINER
URL = 'url = "http://127.0.0.1:1"\nunload = { path = "/unload" }\n'


def consumer(folder: Path, text: str) -> ConsumerSpec:
    file = folder / "gpumand.toml"
    file.write_text(f"[consumers.a]\nvram_resident_mib = 10\n{text}\n")
    return load(file).consumers["a"]


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ('container = "a"', (CONTAINER,)),
        ('unit = "a.service"\ncontainer = "a"', (UNIT, CONTAINER)),
        (f'container = "docker:a"\n{URL}', (HTTP, CONTAINER)),
        (f'unit = "a.service"\ncontainer = "a"\n{URL}', (HTTP, UNIT, CONTAINER)),
        ('unit = "a.service"\ncontainer = "a"\nevict = ["container"]', (CONTAINER,)),
    ],
)
def test_methods_of_a_consumer_in_a_container(tmp_path: Path, text: str, methods: tuple[EvictionMethod, ...]) -> None:
    assert consumer(tmp_path, text).evict == methods


def test_unit_is_started_for_a_load_where_there_is_one(tmp_path: Path) -> None:
    assert consumer(tmp_path, 'container = "podman:a"').service == "container podman:a"
    assert consumer(tmp_path, 'unit = "a.service"\ncontainer = "a"').service == "a.service"


def test_container_without_a_load_route_holds_its_model_while_it_runs(tmp_path: Path) -> None:
    assert not consumer(tmp_path, 'container = "a"').lazy
    assert consumer(tmp_path, f'container = "a"\n{URL}').lazy


def test_container_is_controlled_unless_other_methods_are_configured(tmp_path: Path) -> None:
    """Containers of LXC have a name, but no engine that gpumand could ask to start them."""
    file = tmp_path / "gpumand.toml"
    route = 'url = "http://127.0.0.1:1"\nunload = { path = "/unload" }\nvram_resident_mib = 10\n'
    file.write_text(
        f'[consumers.lxc]\ncontainer = "gpu"\nevict = ["http"]\n{route}'
        f'[consumers.docker]\ncontainer = "ui"\n{route}'
        f'[consumers.both]\ncontainer = "ui2"\nunit = "ui.service"\nevict = ["unit-stop"]\n{route}'
    )
    consumers = load(file).consumers
    assert [consumers[name].controlled_container for name in ("lxc", "docker", "both")] == ["", "ui", ""]
    assert [consumers[name].service for name in ("lxc", "docker", "both")] == ["", "container ui", "ui.service"]
    assert [consumers[name].lazy for name in ("lxc", "docker", "both")] == [True, True, True]
