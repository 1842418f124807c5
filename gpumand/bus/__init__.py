"""D-Bus: the adapter over the binding, and what gpumand offers to clients.

``connection`` is the way in: nothing else in gpumand needs to know which library speaks D-Bus.
"""
