"""The footprint in a starter configuration: a reading counts only if it is the memory of a loaded model."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.config.presets import Preset
from gpumand.discovery.matching import Candidate
from gpumand.discovery.server_models import ServerModels
from gpumand.domain.load_evidence import IDLE_MIB
from gpumand.domain.wording import format_mib


def footprint_lines(
    candidate: Candidate, preset: Preset, is_loaded: bool | None, models: ServerModels
) -> Iterator[str]:
    """The line with the footprint, or comments with the keys to fill in.

    Args:
        candidate: the service that was found.
        preset: its preset.
        is_loaded: whether the server says that a model is loaded; None when it does not say.
        models: the models that the server lists.
    """
    why = _why_no_footprint(candidate, preset, is_loaded, models)
    if why:
        yield f"# vram_resident_mib = MIB  # peak VRAM use while loaded ({why}), or"
        yield "# vram_guess_mib = MIB     # an estimate to use until gpumand has measured it"
        return
    yield f"vram_resident_mib = {candidate.used_mib}  # VRAM use during the scan; check that its model was loaded"
    if len(candidate.devices) > 1:
        yield f"# It holds memory on devices {', '.join(map(str, candidate.devices))}; this is the largest share."


def _why_no_footprint(candidate: Candidate, preset: Preset, is_loaded: bool | None, models: ServerModels) -> str:
    """Why the reading is not the footprint of a loaded model; "" when it is."""
    held_mib = candidate.used_mib
    if held_mib is None:
        return "unknown from the scan"
    now = f"{format_mib(held_mib)} now"
    if is_loaded is False:
        return f"{now}, without a model"
    if models.loaded and len(models.loaded) > 1:
        return f"{now}, with {len(models.loaded)} models"
    # Only a server that does nothing but hold its model is known to have loaded it.
    if preset.about.class_ == "unit-only" or is_loaded or held_mib > IDLE_MIB:
        return ""
    return f"{now}, which may be without a model"
