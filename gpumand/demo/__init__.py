"""The demonstration: the real daemon and real HTTP services on a private bus, with a simulated GPU.

``gpumanctl demo``, or ``python -m gpumand.demo``, runs a scenario and checks each of its steps; ``--faults`` causes
faults and checks their outcomes; ``--run`` leaves everything running to try commands. It needs a dbus-daemon, but no
GPU, no root and no running bus. It must not import ``arbiter`` or ``daemon``:
the daemon is a separate process. No other package imports it.
"""
