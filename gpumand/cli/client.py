"""The asking, as the commands know it: it is the client library's."""

from __future__ import annotations

from gpumand.client.calls import Calls as Client
from gpumand.client.options import Options

__all__ = ["Client", "Options"]
