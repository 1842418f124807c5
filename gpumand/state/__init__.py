"""What survives our own death: leases, and what was set by hand or learned about consumers.

Small files, one a lease and one a consumer, each replaced as a whole (``folder``); what they say is believed only after
a check (``records``); one thread does it all in the order asked for (``worker``).
"""

from __future__ import annotations

from gpumand.state.store import FileStore

__all__ = ["FileStore"]
