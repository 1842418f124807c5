"""org.freedesktop.LogControl1: what ``systemctl service-log-level gpumand.service debug`` talks to."""

from __future__ import annotations

import logging
from typing import Any

from gpumand.bus.clients import Clients
from gpumand.bus.connection import IncomingCall
from gpumand.bus.interfaces import log_control_interface
from gpumand.bus.names import LOG_CONTROL_PATH
from gpumand.bus.object_tree import PublishedObject
from gpumand.bus.options import capped
from gpumand.bus.properties import Values
from gpumand.domain.errors import AccessDenied, InvalidArgs
from gpumand.log import logging_setup
from gpumand.log.journal import IDENTIFIER

log = logging.getLogger(__name__)


class LogControl:
    """The log's level on the bus, for all to read and for few to set: what is logged may fill a disk, or hide a deed.

    Args:
        clients: knows who calls.
        trusted_uids: who may set it; no person is ever asked.
    """

    def __init__(self, clients: Clients, trusted_uids: frozenset[int]) -> None:
        self._clients = clients
        self._trusted_uids = trusted_uids

    def object(self) -> PublishedObject:
        """The object, to be put at its fixed path."""
        constants: Values = {"LogTarget": logging_setup.target(), "SyslogIdentifier": IDENTIFIER}
        setters = {"LogLevel": self._set_level}
        return PublishedObject(LOG_CONTROL_PATH, log_control_interface(), constants, _level, setters)

    async def _set_level(self, call: IncomingCall, value: Any) -> None:
        caller = await self._clients.identify(call.sender)
        if caller.uid not in self._trusted_uids:
            raise AccessDenied(f"uid {caller.uid} may not set the log level; root may")
        name = capped("the log level", value)
        if name not in logging_setup.LEVELS:
            raise InvalidArgs(f"no log level is named {name!r}; there are {', '.join(logging_setup.LEVELS)}")
        logging_setup.set_level(name)
        log.warning("uid %d set the log level to %s", caller.uid, name)


def _level() -> Values:
    return {"LogLevel": logging_setup.level()}
