"""Checks which operations a caller from another host may use."""

from __future__ import annotations

from gpumand.domain.errors import AccessDenied
from gpumand.fleet.settings import FleetConfig, Right


def check_right(config: FleetConfig, caller: str, right: Right) -> None:
    """Return if a caller may use a right here. Raises AccessDenied with the line that would allow it."""
    if config.tls is not None and not caller:
        # "*" stands for other hosts of the fleet, and a certificate without a name belongs to none.
        raise AccessDenied(
            f"Permission denied: a host without a certificate of gpumanctl fleet may not {right} on {config.host}. "
            "Such a certificate has the name of the host and no common name: see gpumanctl fleet invite"
        )
    if config.may(caller, right):
        return
    name = caller or "a host without a certificate"
    entry = f'{caller or "*"} = ["{right}"]'
    raise AccessDenied(
        f"Permission denied: {name} may not {right} on {config.host}. "
        f"Allow it in fleet.toml on {config.host}: {entry} in [fleet.allow]"
    )
