"""Measurements of gpumand against yardsticks taken in the same run."""
