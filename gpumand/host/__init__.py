"""The clock, the RAM and the users of the host: implementations of the ports ``Clock`` and ``HostMemory``, user names.

Must not import the arbiter, the bus or the command line.
"""
