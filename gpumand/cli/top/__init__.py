"""``gpumanctl top``: a live screen with devices, consumers, leases and waiting requests.

Reading order: ``keys`` (bytes from a terminal to key names), ``model`` (what is shown and what each key does),
``frame`` (the model as lines), ``terminal`` (takes the terminal over and restores it), ``session`` (polls the daemon
and connects the others). ``keys``, ``model`` and ``frame`` must not import the terminal or the bus.
"""
