"""gpumand, a daemon that shares the VRAM of one Linux host between services.

Must not import any subpackage: commands and clients load only the modules they use.
"""
