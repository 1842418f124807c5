"""``gpumanctl connect``: points programs at the gateway, by a few marked lines in their own settings.

``marked_lines`` edits text and takes the edits back, ``toml_text``, ``yaml_text`` and ``env_text`` know the formats,
``programs`` knows which file has which setting, ``settings_file`` reads and replaces files of users, and ``backups``
remembers what to put back. Comments and order of the files stay. Must not import anything that needs a running daemon.
"""
