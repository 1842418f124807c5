"""The clock and the RAM of the host, read from the kernel: implementations of the ports ``Clock`` and ``HostMemory``.

Must not import the arbiter, the bus or the command line.
"""
