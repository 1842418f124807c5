"""``gpumand-fleet``: one address for several hosts, in a process and with a user of its own.

VRAM is not shared between hosts, so the local daemon needs no agreement with other hosts to be right: it always has
the last word, and goes on alone when the store is gone. The store serves to find a model, to show all hosts, and to
keep two routers from loading the same consumer twice. Must not import the daemon, the arbiter or anything that reads
a driver.

Read ``rows`` (what a host publishes), ``keys`` (where), ``store`` (the port ``FleetStore`` and its errors) and
``clock`` first; then ``member`` (stays in the fleet), ``publisher`` (writes the row), ``fence`` and ``unique``
(consumers that only one host may serve). The store in etcd is ``etcd_store``, on ``etcd_client`` (endpoints, limits,
logins), ``etcd_watch``, ``etcd_list`` and ``etcd_kv`` (the JSON forms). Without etcd it is ``static_store``, which asks
the agents (``peer_rows``), as ``degraded_watch`` does while etcd is gone. ``stores`` chooses.
``gpumand.testing.fleet_store`` has a store in memory.
"""
