"""``gpumanctl top``: a live screen.

``keys`` turns bytes of a terminal into names of keys, ``model`` has what is shown and what a key does to it, ``frame``
makes lines of it, ``terminal`` puts them onto a screen and leaves that as it was, ``session`` asks the daemon and ties
the others together. The first three know neither terminals nor buses.
"""
