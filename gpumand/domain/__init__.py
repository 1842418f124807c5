"""The rules of the game: plain values in, plain values out.

Nothing here does I/O, knows asyncio or reads a clock. Read in this order: ``device`` and ``consumer`` (what there
is), ``lease`` and ``queue`` (who wants what), ``ledger`` (who holds what, and what is promised), ``planning`` (may
this request be granted, and at whose cost), ``errors`` (every way to say no).
"""
