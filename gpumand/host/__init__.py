"""The clock, the RAM, the users and the TCP connections of the host: implementations of ports, and user names.

Must not import the arbiter, the bus or the command line.
"""
