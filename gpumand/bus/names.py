"""Bus names, object paths and interface names: those of gpumand, and of the services that it calls."""

from __future__ import annotations

BUS_NAME = "org.gpumand1"
ROOT_PATH = "/org/gpumand1"
DEVICE_PREFIX = ROOT_PATH + "/device/"
CONSUMER_PREFIX = ROOT_PATH + "/consumer/"
LEASE_PREFIX = ROOT_PATH + "/lease/"

MANAGER = "org.gpumand1.Manager"
DEVICE = "org.gpumand1.Device"
CONSUMER = "org.gpumand1.Consumer"
LEASE = "org.gpumand1.Lease"

LOG_CONTROL = "org.freedesktop.LogControl1"
LOG_CONTROL_PATH = "/org/freedesktop/LogControl1"

DBUS = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"
PEER = "org.freedesktop.DBus.Peer"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

SYSTEMD = "org.freedesktop.systemd1"
SYSTEMD_PATH = "/org/freedesktop/systemd1"
SYSTEMD_MANAGER = "org.freedesktop.systemd1.Manager"
SYSTEMD_UNIT = "org.freedesktop.systemd1.Unit"
SYSTEMD_SERVICE = "org.freedesktop.systemd1.Service"

POLKIT = "org.freedesktop.PolicyKit1"
POLKIT_PATH = "/org/freedesktop/PolicyKit1/Authority"
POLKIT_AUTHORITY = "org.freedesktop.PolicyKit1.Authority"
