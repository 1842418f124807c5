"""The D-Bus client that the commands use; it is the one of the client library."""

from __future__ import annotations

from gpumand.client.calls import Calls as Client
from gpumand.client.options import Options

__all__ = ["Client", "Options"]
