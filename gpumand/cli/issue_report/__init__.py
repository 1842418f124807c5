"""The report that a user attaches to an issue: what the developers need, without names, paths, prompts or addresses.

Texts of other programs never reach the report. Every value is a number, a version, a word of a fixed set, or the name
of a GPU product: ``safe`` lets nothing else through. Read ``safe``, ``message_kinds``, ``sections``.
"""
