"""Small programs that run as root on their own, outside the daemon.

Nothing of gpumand is imported here: each program is one file of the standard library, so that what runs as root can be
read in one sitting.
"""
