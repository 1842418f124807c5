"""gpumand lends the VRAM of one Linux host to the services that need it."""
