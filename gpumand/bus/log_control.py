"""The log level on D-Bus, as org.freedesktop.LogControl1 for ``systemctl service-log-level gpumand.service debug``."""

from __future__ import annotations

import logging
from typing import Any

from gpumand.bus.authorization import UserNames, describe_user, permission_denied
from gpumand.bus.clients import Clients
from gpumand.bus.connection import IncomingCall
from gpumand.bus.errors import quoted
from gpumand.bus.interfaces import log_control_interface
from gpumand.bus.names import LOG_CONTROL_PATH
from gpumand.bus.object_tree import PublishedObject
from gpumand.bus.options import check_length
from gpumand.bus.properties import Values
from gpumand.domain.errors import AccessDenied, InvalidArgs
from gpumand.log import logging_setup
from gpumand.log.journal import IDENTIFIER

log = logging.getLogger(__name__)


class LogControl:
    """Publishes the log level: every client may read it, only trusted users may set it.

    Setting it is restricted because verbose logging can fill a disk, and quiet logging can hide an action.

    Args:
        clients: identifies callers.
        trusted_uids: user ids that may set the level. polkit is not asked.
        users: names users in error messages.
    """

    def __init__(self, clients: Clients, trusted_uids: frozenset[int], users: UserNames) -> None:
        self._clients = clients
        self._trusted_uids = trusted_uids
        self._users = users

    def object(self) -> PublishedObject:
        """Return the object to publish; its path is fixed by the specification of LogControl1."""
        constants: Values = {"LogTarget": logging_setup.target(), "SyslogIdentifier": IDENTIFIER}
        setters = {"LogLevel": self._set_level}
        return PublishedObject(LOG_CONTROL_PATH, log_control_interface(), constants, _level, setters)

    async def _set_level(self, call: IncomingCall, value: Any) -> None:
        caller = await self._clients.identify(call.sender)
        if caller.uid not in self._trusted_uids:
            user = await describe_user(self._users, caller.uid)
            raise AccessDenied(f"{permission_denied(user, 'set the log level')}. Use sudo.")
        name = check_length("the log level", value)
        if name not in logging_setup.LEVELS:
            raise InvalidArgs(f"unknown log level {quoted(name)}: use one of {', '.join(logging_setup.LEVELS)}")
        logging_setup.set_level(name)
        log.warning("uid %d set the log level to %s", caller.uid, name)


def _level() -> Values:
    return {"LogLevel": logging_setup.level()}
