"""Simulation: replays demand in virtual time through the scheduling rules of the daemon, to compare settings.

Must import only ``gpumand.domain``: no I/O, no asyncio. Reading order: ``demand``, ``host``, ``engine``, ``report``.
"""
