"""``gpumanctl doctor``: diagnoses the installation. Must not import ``gpumand.arbiter`` or ``gpumand.daemon``.

Reading order: ``facts`` (the values that are known), ``collect``, ``host`` and ``probes`` (read them from D-Bus, files,
the driver, groups and consumers), ``checks`` (functions without I/O that turn facts into findings), ``finding``. Facts
that could not be read become findings too. Nothing here changes the host, starts the daemon, or sends a consumer
anything but a health check and, where its model is loaded, a busy check.
"""
