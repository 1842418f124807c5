"""The memory of a CUDA context; a module of its own, so that gpumanctl shows a status without loading the rules."""

CONTEXT_MIB = 600
"""A CUDA context and its libraries take a few hundred MiB before any model is loaded."""
