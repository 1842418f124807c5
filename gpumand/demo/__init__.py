"""The demonstration: the real daemon, real services over HTTP, a bus of its own, and a device that is simulated.

``python -m gpumand.demo`` plays a story and checks every step of it; ``--run`` leaves the set-up running to play
with. Needs a dbus-daemon and nothing else: no GPU, no root, no running bus.
"""
