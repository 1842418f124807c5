"""The text of gpumand's own errors on the bus: it begins with the short name of the error.

``busctl call`` prints only the text of an error, and scripts need the name to act on it. gpumand's clients have the
name anyway, so they remove it from the text again.
"""

from __future__ import annotations

from gpumand.domain.errors import ERROR_PREFIX, GpumandError


def with_name(name: str, text: str) -> str:
    """Return the text for the bus: ``TimedOut: timed out after 20 s …`` for an error of ``org.gpumand1.Error``."""
    return _prefix(name) + text


def without_name(name: str, text: str) -> str:
    """Return the text without the name that ``with_name`` has put in front; any other text is unchanged."""
    return text.removeprefix(_prefix(name))


def _prefix(name: str) -> str:
    is_own = name.startswith(ERROR_PREFIX) and name != GpumandError.dbus_name
    return f"{name.removeprefix(ERROR_PREFIX)}: " if is_own else ""
