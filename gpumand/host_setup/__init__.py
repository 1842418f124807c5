"""Sets gpumand up on hosts where no distribution package does: writes its system files from the installed wheel.

``files`` lists what belongs where, ``trust`` decides whether root may run this installation, ``plan`` decides what to
do with each file, ``apply`` does it, ``services`` starts and stops the services, ``init_system`` finds out
whether there is a systemd for that. Must not import anything that needs a
running daemon.
"""
