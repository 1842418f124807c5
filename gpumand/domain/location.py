"""Where a consumer is: on the devices where its processes hold memory, not only on those for which it was planned."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gpumand.domain.device import Devices, Sample, default_devices
from gpumand.domain.residency import holds_model
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState
from gpumand.domain.wording import describe_devices, format_mib

ADVICE = (
    "CUDA numbers GPUs by speed, not as the driver does: set CUDA_DEVICE_ORDER=PCI_BUS_ID where the service is "
    "started, or name the GPU by its UUID in CUDA_VISIBLE_DEVICES"
)


def observed_devices(samples: Mapping[int, Sample], name: str) -> Devices:
    """Devices on which the consumer's processes hold memory, the one with most of it first."""
    held = {index: sample.held_by(name) or 0 for index, sample in samples.items()}
    return tuple(sorted((index for index in held if held[index]), key=lambda index: -held[index]))


def model_devices(samples: Mapping[int, Sample], state: ConsumerState) -> Devices:
    """Devices on which its processes hold more than a CUDA context, the one with most of it first."""
    observed = observed_devices(samples, state.name)
    return tuple(index for index in observed if holds_model(state.spec, samples[index].held_by(state.name) or 0))


def actual_place(samples: Mapping[int, Sample], state: ConsumerState) -> Devices:
    """The devices on which a model was loaded although others were reserved for it; () where there is no contradiction.

    A device where memory cannot be attributed proves nothing, and neither does one with a part of the model.
    """
    there = model_devices(samples, state)[: state.spec.device_count]
    known = [samples[device].held_by(state.name) for device in state.devices if device in samples]
    is_elsewhere = len(there) == state.spec.device_count and set(there).isdisjoint(state.devices)
    return tuple(sorted(there)) if is_elsewhere and all(mib is not None for mib in known) else ()


def misplacement(samples: Mapping[int, Sample], state: ConsumerState) -> str:
    """Finding: its model is on a device that its configuration does not name; "" where it is not, or none is named."""
    if not state.spec.devices:
        return ""
    wanted, there = set(state.spec.devices), model_devices(samples, state)
    wrong = tuple(index for index in there if not samples[index].names & wanted)
    if not wrong:
        return ""
    held = format_mib(sum(samples[index].held_by(state.name) or 0 for index in wrong))
    return (
        f"configured for device {', '.join(state.spec.devices)}, but its processes hold {held} on "
        f"{describe_devices(tuple(sorted(wrong)))}. {ADVICE}."
    )


def computed_on_cpu(samples: Mapping[int, Sample], state: ConsumerState) -> str:
    """Finding: a part of its model is not in VRAM, by the report of its server, and what helps; "" where it all is."""
    part = state.partial
    if part is None or state.residency is not Residency.RESIDENT:
        return ""
    total_mib = sum(samples[device].total_mib or 0 for device in state.devices if device in samples)
    share = f"only {part.percent} %" if part.vram_mib else "nothing"
    need_mib = math.ceil(part.size_mib / state.spec.device_count)
    if total_mib and part.size_mib > total_mib:
        advice = f"All of it does not fit {describe_devices(state.devices)}; a smaller quantization or context does"
    elif state.footprint_mib >= need_mib:
        advice = (
            f"Unload it, so that the next load has room for all of it: gpumanctl evict {state.name}. If that does not "
            "help, settings of its server limit the part on the GPU"
        )
    else:
        advice = (
            f"Set vram_resident_mib to at least {need_mib} and unload it, so that the next load has room for all of "
            f"it: gpumanctl evict {state.name}"
        )
    return (
        f"{share} of its model is in VRAM ({format_mib(part.vram_mib)} of {format_mib(part.size_mib)}); the rest is "
        f"computed on the CPU, which is much slower. {advice}."
    )


def likely_devices(samples: Mapping[int, Sample], state: ConsumerState, observed: Devices = ()) -> Devices:
    """The devices that a consumer is assumed to be on.

    Those where it was observed come first, then its former devices, the configured ones, and the ones with most
    free memory, until it has as many as it needs.
    """
    if len(observed) == state.spec.device_count:
        return tuple(sorted(observed))
    present, wanted = samples.values(), state.spec.devices
    usual = default_devices(present)
    by_free = sorted(present, key=lambda one: (one.index not in usual, -(one.free_mib or 0)))
    named = [one for one in by_free if one.names & set(wanted)]
    order = dict.fromkeys([*observed, *state.devices, *(one.index for one in (*named, *by_free))])
    present_devices = [index for index in order if index in samples]
    return tuple(sorted(present_devices[: state.spec.device_count]))
