"""Plain values from the bus in, text for people out; nothing here asks anybody anything.

``format`` (words for figures) and ``progress`` are plain text; the others give rich's ``Text``. What a screen can show
is a ``Look``.
"""
