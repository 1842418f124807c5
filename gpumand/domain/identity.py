"""Identity of a consumer: learned values apply only as long as its unit, server and model stay the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route

_ALWAYS_INCLUDED = {
    "Route": ("path", "method", "json", "headers", "timeout_sec", "success", "success_equals"),
    "HealthRoute": ("path", "loaded", "loaded_equals", "last_used", "headers", "timeout_sec"),
}
"""Fields that are part of the identity whether they are set or not, in this order: stored identities depend on it.

Do not add new fields of a route here. A new field becomes part of the identity only where it is set, so that an
upgrade that adds a field does not discard everything learned.
"""


def identity(spec: ConsumerSpec) -> str:
    """A short text that changes only when unit, container, URL, preset or routes change; it is stored on disk."""
    parts = [spec.unit, spec.url, spec.preset, _described(spec.load), _described(spec.unload), _described(spec.health)]
    # Only where they are set, so that everything learned before these keys existed stays valid.
    parts += [f"{key}={getattr(spec, key)}" for key in ("container", "slice", "cgroup") if getattr(spec, key)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _described(route: Route | HealthRoute | None) -> str:
    if route is None:
        return "None"
    kind = type(route).__name__
    newer = [field.name for field in dataclasses.fields(route) if field.name not in _ALWAYS_INCLUDED[kind]]
    included = (*_ALWAYS_INCLUDED[kind], *sorted(name for name in newer if _is_set(route, name)))
    return f"{kind}({', '.join(f'{name}={getattr(route, name)!r}' for name in included)})"


def _is_set(route: Route | HealthRoute, name: str) -> bool:
    field = next(one for one in dataclasses.fields(route) if one.name == name)
    factory = field.default_factory
    return bool(getattr(route, name) != (field.default if factory is dataclasses.MISSING else factory()))
