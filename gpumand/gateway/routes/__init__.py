"""Route classes: which requests to a service count as use of its model. Imports only ``gpumand.config``."""
