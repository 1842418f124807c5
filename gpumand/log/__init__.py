"""Logging: the native protocol of the systemd journal, log levels, and the ids of messages that can be searched for.

Must not import any other package of gpumand.
"""
