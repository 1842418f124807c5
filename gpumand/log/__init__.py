"""Logging: systemd's journal protocol, log levels, and the ids of messages that operators search for.

Imports nothing else of gpumand.
"""
