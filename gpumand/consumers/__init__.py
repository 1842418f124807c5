"""How consumers are loaded, evicted and probed: over HTTP, and as units."""
