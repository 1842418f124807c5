"""Fault tests of a fleet in network namespaces: ``make fleet-test``, as root."""
