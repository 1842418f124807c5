"""Small programs that run as root, outside the daemon.

Must not import anything of gpumand outside this package, and uses the standard library only, so that the code that runs
as root is quick to review. ``unit_allowed`` and ``containers`` are the programs; the other modules are parts of them.
"""
