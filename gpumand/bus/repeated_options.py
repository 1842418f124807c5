"""Options of ``Acquire`` that were checked before: nearly every call of a client has the same ones."""

from __future__ import annotations

from typing import Any

from gpumand.bus.options import NO_OPTIONS, Options, acquire_options
from gpumand.domain.request import AcquireOptions

MAX_KNOWN = 256
"""Options kept: clients may give every lease another reason."""


class RepeatedOptions:
    """Does the same as ``acquire_options``, and remembers the results."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, str, Any], ...], AcquireOptions] = {}

    def check(self, options: Options) -> AcquireOptions:
        """Return the checked options. Raises like ``acquire_options``."""
        if not options:
            return NO_OPTIONS
        key = tuple([(name, variant.signature, variant.value) for name, variant in options.items()])
        try:
            known = self._known.get(key)
        except TypeError:  # a list, which cannot be part of a key
            return acquire_options(options)
        return known if known is not None else self._check_first(key, options)

    def _check_first(self, key: tuple[tuple[str, str, Any], ...], options: Options) -> AcquireOptions:
        checked = acquire_options(options)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = checked
        return checked
