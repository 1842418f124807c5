"""Measures gpumand's speed and compares its scheduling policies. The package gpumand must not import it."""
