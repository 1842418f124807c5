"""Small programs that run as root, outside the daemon.

Must not import anything of gpumand: each program is one file that uses the standard library only, so that the code that
runs as root is quick to review.
"""
