"""``gpumanctl setup``: from an installed package to the first lease, with questions or with ``--yes``.

``wizard`` goes through the steps: ``system_files`` writes what a distribution package would bring, ``new_services``
finds services and adds them to the configuration, ``gateway_step`` puts the gateway in front of them, ``first_lease``
takes a lease for a moment. ``dialog`` asks, ``interrupts`` keeps Ctrl-C away from changes that belong together. Each
step can be repeated: files of the administrator are never changed, except for what the gateway's step names and shows.
Must not import ``daemon``.
"""
