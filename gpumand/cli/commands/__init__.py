"""The commands of gpumanctl, one module per group. Must not import ``rich`` when a module is loaded.

``app`` imports a module when one of its commands is used.
"""
