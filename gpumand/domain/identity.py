"""What makes a consumer the thing that was measured: with another unit, server or model it is another thing."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route

_ALWAYS_TOLD = {
    "Route": ("path", "method", "json", "headers", "timeout_sec", "success", "success_equals"),
    "HealthRoute": ("path", "loaded", "loaded_equals", "last_used", "headers", "timeout_sec"),
}
"""Fields that count whether they are set or not, in this order: identities were kept that were made of them.

Those that a route gets later are not added here. They count where they are set, so that a version that brings one
does not forget what was measured.
"""


def identity(spec: ConsumerSpec) -> str:
    """A short text that changes when the consumer becomes another thing, and only then; it is kept on disk."""
    told = [spec.unit, spec.url, spec.preset, _told(spec.load), _told(spec.unload), _told(spec.health)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _told(route: Route | HealthRoute | None) -> str:
    if route is None:
        return "None"
    kind = type(route).__name__
    later = [field.name for field in dataclasses.fields(route) if field.name not in _ALWAYS_TOLD[kind]]
    shown = (*_ALWAYS_TOLD[kind], *sorted(name for name in later if _is_set(route, name)))
    return f"{kind}({', '.join(f'{name}={getattr(route, name)!r}' for name in shown)})"


def _is_set(route: Route | HealthRoute, name: str) -> bool:
    field = next(one for one in dataclasses.fields(route) if one.name == name)
    made = field.default_factory
    return bool(getattr(route, name) != (field.default if made is dataclasses.MISSING else made()))
