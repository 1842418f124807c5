"""``gpumanctl top``: a live screen with devices, graphs, consumers, leases, waiting requests, processes and evictions.

Reading order: ``keys`` (bytes from a terminal to key names), ``sections`` (the lists and their rows), ``model`` (the
state), ``actions`` and ``pressing`` (what each key and click does), ``tables``, ``graphs``, ``devices``, ``details``,
``help`` and ``footer`` (the parts of a screen), ``layout`` and ``frame`` (the parts put together), ``palette``
(colors), ``processes`` (reads /proc), ``terminal`` (takes the terminal over and restores it), ``session`` (polls the
daemon and connects the others). All but ``processes``, ``terminal`` and ``session`` are without input and output.
"""
