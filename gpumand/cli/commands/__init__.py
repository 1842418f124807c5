"""One module for each group of commands; ``app`` imports a module when one of its commands is asked for."""
