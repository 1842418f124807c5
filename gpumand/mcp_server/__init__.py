"""``gpumanctl mcp``: an MCP server, by which agents read the status, reserve the GPU, and load or evict services.

It is a client of gpumand with the rights of the user that runs it. ``held_leases`` keeps the leases of the process,
``tools`` are the operations without the protocol, ``server`` offers them over stdio with the package ``mcp``, which is
an optional dependency. Must not import ``cli``; only ``server`` may import ``mcp``.
"""
