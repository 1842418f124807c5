"""What a caller of another host may do here."""

from __future__ import annotations

from gpumand.domain.errors import AccessDenied
from gpumand.fleet.settings import FleetConfig, Right


def check_right(config: FleetConfig, caller: str, right: Right) -> None:
    """Return if a caller may use a right here. Raises AccessDenied with the line that would allow it."""
    if config.may(caller, right):
        return
    name = caller or "a host without a certificate"
    entry = f'{caller or "*"} = ["{right}"]'
    raise AccessDenied(
        f"Permission denied: {name} may not {right} on {config.host}. "
        f"Allow it in fleet.toml on {config.host}: {entry} in [fleet.allow]"
    )
