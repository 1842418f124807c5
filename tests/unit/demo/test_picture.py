"""The bars of the demonstration at a fixed width, and the configuration that it writes."""

from __future__ import annotations

from pathlib import Path

from gpumand.cli.render.theme import Theme
from gpumand.config import load
from gpumand.demo.example_services import IMAGE, LANGUAGE, SERVICES, TOTAL_MIB, VOICE, configuration
from gpumand.demo.picture import picture
from tests.unit.cli.samples import consumer, device, status

LOADING = """\
 GPU 0  Simulated GPU  8.4 GiB of 24.0 GiB used
 comfyui  unloaded                                                       0 MiB
 mvoice   resident, leased #####                                       2.8 GiB
 llm      loading          ##########                                  5.6 GiB
 reserved                  ::::::::::::::                              8.4 GiB
 free                      ............                                7.2 GiB
"""


def test_bars_have_one_scale_and_add_up() -> None:
    snapshot = status(
        devices=[device(name="Simulated GPU", used_mib=8603, free_mib=15961, reserved_mib=8600)],
        consumers=[
            consumer("comfyui"),
            consumer("mvoice", "resident", used_mib=2867, leases=1),
            consumer("llm", "loading", used_mib=5736),
        ],
    )
    theme = Theme(width=80, unicode=False)
    assert "".join(f"{line.plain}\n" for line in picture(snapshot, theme)) == LOADING


def test_scenario_needs_exactly_one_eviction() -> None:
    free = TOTAL_MIB - IMAGE.mib - VOICE.mib
    assert free >= 0
    assert free + VOICE.mib < LANGUAGE.mib + 256 <= free + IMAGE.mib


def test_configuration_is_valid(tmp_path: Path) -> None:
    urls = {service.name: f"http://127.0.0.1:{9000 + number}" for number, service in enumerate(SERVICES)}
    (tmp_path / "gpumand.toml").write_text(configuration(urls, tmp_path / "a b"))
    settings = load(tmp_path / "gpumand.toml")
    assert {name: spec.vram_resident_mib for name, spec in settings.consumers.items()} == {
        service.name: service.mib for service in SERVICES
    }
    assert settings.gpu.simulated_dir == str(tmp_path / "a b")
    assert settings.consumers[IMAGE.name].lazy
    assert not settings.consumers[VOICE.name].lazy
