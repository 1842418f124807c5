"""The scheduling rules of gpumand as pure functions and values: no I/O, no asyncio, no clock.

Must not import any other package of gpumand. Reading order: ``device`` and ``consumer`` (the resources), ``lease`` and
``queue`` (requests for them), ``ledger`` (current and reserved memory), ``planning`` (whether a request can be
granted, and by which evictions), ``errors`` (all refusals).
"""
