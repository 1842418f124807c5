"""``gpumanctl init --undo``: takes back the swap of ports by which services got behind the gateway.

``record`` keeps what the swap has written, ``texts`` computes the inverse of each edit, ``plan`` reads the files and
says what would be restored, ``work_check`` finds services that are in use, and ``carry_out`` does it.
"""
