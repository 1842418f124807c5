"""The single owner of state: takes requests, runs plans, grants leases.

``books`` (what is known, and telling the world of it) is shared by all modules here and by nobody else. ``arbiter``
is the front: requests, the queue, decisions. ``leases`` keeps leases and ends them. ``jobs`` carries out a plan with
the ``effects`` of evicting and loading. ``facts`` corrects what is believed by what is seen, and ``upkeep`` goes and
looks. Everything runs on one event loop; state changes only between two awaits, decided on what is true right there.
"""

from gpumand.arbiter.arbiter import Arbiter

__all__ = ["Arbiter"]
