"""``gpumanctl doctor``: looks at everything that must fit together, and says what does not, and what mends it.

``facts`` are what is known, ``look`` and ``host`` gather them (the bus; files, driver, groups), and each function in
``checks`` judges some of them. Checks do no I/O; what could not be seen is a finding too. Nothing here changes
anything, starts the daemon, or asks a consumer for more than its health.
"""
