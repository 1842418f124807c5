"""What the gateway answers at its own address: a web page, a JSON API, and metrics.

``feed`` reads the daemon's status once for all pages, ``events`` sends it to them, and ``api`` answers their questions.
``actions`` changes something: it checks that a browser was not misled into it, and that the client may do it.
"""
