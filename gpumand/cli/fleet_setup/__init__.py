"""``gpumanctl fleet``: creates a fleet, invites hosts and joins one.

Read ``folders`` (where everything is), ``files`` (how it is written), then ``founding``, ``inviting`` and ``joining``.
"""
