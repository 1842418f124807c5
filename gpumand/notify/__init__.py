"""``gpumand-notify``: runs commands and calls webhooks when something happens, in a process and with a user of its own.

The daemon starts no programs and sends nothing: this process asks it over D-Bus, as any client may. ``config`` reads
notify.toml, ``notices`` decides what is worth a notice, ``rate`` limits how many are delivered, ``delivery`` delivers.
Must not import the daemon, the arbiter or anything that reads a driver.
"""
