"""The models of a server, as it lists them."""

from __future__ import annotations

from dataclasses import dataclass

MAX_MODELS = 256
"""Maximum number of models of one server that are read."""

MAX_NAME = 256
"""Maximum length of a model's name, in characters; longer ones are ignored."""


@dataclass(frozen=True, slots=True)
class ServerModels:
    """The models of a server.

    Attributes:
        names: names of its models; empty when it has none, or did not answer.
        loaded: names of the models in memory; None when the server does not say.
        error: why a question was not answered, in one line; "" when all were.
    """

    names: tuple[str, ...] = ()
    loaded: tuple[str, ...] | None = None
    error: str = ""

    @property
    def chosen(self) -> str:
        """The model for the configuration: one in memory, else the first; "" when there is none."""
        return next(iter(self.loaded or self.names), "")
