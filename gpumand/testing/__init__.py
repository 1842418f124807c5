"""Test support: in-memory fakes of every port, and real processes for trying gpumand; also for use in other projects.

The package must not import ``gpumand.daemon``, ``gpumand.cli`` or ``gpumand.demo``, and the daemon does not import it.
Start with the module ``daemon`` (a private gpumand with simulated consumers), or with ``world`` (an arbiter with fakes
in virtual time).
"""
