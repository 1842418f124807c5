"""The arbiter owns all scheduling state: it queues requests, evicts and loads consumers, and grants leases.

It imports the rules from ``domain``, the protocols in ``ports`` and the message ids in ``log``. It must not import an
adapter (``bus``, ``vram``, ``service_manager``, ``consumers``, ``http``, ``state``, ``history``), ``config`` or
``daemon``: those are passed in as ports.

Everything runs on one event loop. State changes only between two awaits, and every decision uses the state at that
moment; after an await, earlier conclusions must be checked again.

Reading order: ``state`` (the shared state and its announcements), ``arbiter`` (the entry point), ``scheduler`` (decides
every waiting request), ``jobs`` and ``actions`` (carry out evictions and loads), ``leases``, ``reconciler`` (makes the
state agree with observations), ``housekeeping`` (the periodic loops).
"""

from gpumand.arbiter.arbiter import Arbiter

__all__ = ["Arbiter"]
