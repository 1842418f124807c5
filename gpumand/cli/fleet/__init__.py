"""``gpumanctl --fleet``: the commands for all hosts, through the local API of ``gpumand-fleet``.

Read ``api`` (short calls), ``leasing`` (leases, which last as long as their connection), and ``commands``.
"""
