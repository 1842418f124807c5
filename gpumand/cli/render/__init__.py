"""Turns plain values from the bus into lines of text for the terminal.

Must not import the bus connection or the client: nothing here makes calls. Start with ``theme`` (what the screen can
show), ``text`` (lines with styles), ``format`` (numbers as text) and ``table``.
"""
