"""The host's clock and memory, read from the kernel.

Implements the ports ``Clock`` and ``HostMemory``; must not import the arbiter, the bus or the command line.
"""
