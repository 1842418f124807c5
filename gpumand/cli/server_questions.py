"""Asks recognised servers for ``gpumanctl init``: which preset fits, and which models they have.

All questions are GET requests that neither load nor wake a model. The answers are untrusted input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumand.config.preset_schema import ModelList
from gpumand.config.presets import Preset
from gpumand.consumers import answers, json_pointer
from gpumand.consumers.answers import NoAnswer
from gpumand.consumers.routes import HttpRoutes
from gpumand.discovery.matching import Candidate
from gpumand.discovery.roles import with_role
from gpumand.discovery.server_models import MAX_MODELS, MAX_NAME, ServerModels
from gpumand.domain.consumer import ConsumerSpec

TIMEOUT_SEC = 5.0
"""Timeout of one question, in seconds."""


class Unanswered(Exception):
    """A question has no usable answer; the message is one line."""


@dataclass(frozen=True, slots=True)
class ServerQuestions:
    """Asks servers by their URLs.

    Attributes:
        routes: sends the requests.
    """

    routes: HttpRoutes

    async def resolve_roles(self, found: Sequence[Candidate], urls: Sequence[str]) -> list[Candidate]:
        """The candidates, each with the preset that its role requires.

        Args:
            found: the candidates.
            urls: the URL of each candidate; "" for one that cannot be asked.
        """
        return list(await asyncio.gather(*map(self._resolve_role, found, urls)))

    async def _resolve_role(self, candidate: Candidate, url: str) -> Candidate:
        role = candidate.preset.about.role if candidate.preset else None
        if role is None:
            return candidate
        try:
            document = await self._ask(url, role.path) if url else None
        except Unanswered:
            document = None
        answered = isinstance(document, dict)
        return with_role(candidate, url, answers.value_at(document, role.value) if answered else None, answered)

    async def ask_models(self, places: Mapping[str, tuple[Preset, str]]) -> dict[str, ServerModels]:
        """The models of servers, by consumer name; servers whose presets have no model are left out.

        Args:
            places: preset and URL, by consumer name.
        """
        asked = {name: place for name, place in places.items() if place[0].about.models}
        found = await asyncio.gather(*(self._models(*place) for place in asked.values()))
        return dict(zip(asked, found, strict=True))

    async def _models(self, preset: Preset, url: str) -> ServerModels:
        names: list[str] = []
        loaded: list[str] | None = None
        error = ""
        for question in preset.about.models:
            try:
                document = await self._ask(url, question.path)
                listed, in_memory = _read_models(question, document)
            except Unanswered as failure:
                error = error or str(failure)
                continue
            names += [name for name in listed if name not in names]
            loaded = (loaded or []) + in_memory if in_memory is not None else loaded
        return ServerModels(tuple(names[:MAX_MODELS]), None if loaded is None else tuple(loaded), error)

    async def _ask(self, url: str, path: str) -> Any:
        """The JSON document that a server answers. Raises Unanswered."""
        spec = ConsumerSpec("init", 1, url=url)
        try:
            async with asyncio.timeout(TIMEOUT_SEC):
                answer = await self.routes.read(spec, path, TIMEOUT_SEC)
        except NoAnswer as failure:
            raise Unanswered(f"{path}: {failure}") from None
        except TimeoutError:
            raise Unanswered(f"{path}: no answer within {TIMEOUT_SEC:g} s") from None
        if error := answers.status_error(answer):
            raise Unanswered(f"{path} {error}")
        document = answers.parse(answer.body)
        if answer.is_cut or document is answers.UNUSABLE:
            raise Unanswered(f"{path} answered no usable JSON")
        return document


def _read_models(question: ModelList, document: Any) -> tuple[list[str], list[str] | None]:
    """The names in an answer, and those in memory; None where it does not say. Raises Unanswered."""
    try:
        values = json_pointer.resolve_all(document, question.names)
        states = json_pointer.resolve_all(document, question.loaded) if question.loaded else []
    except LookupError:
        raise Unanswered(f"{question.path} answered no list of models") from None
    names = [name for name in values if _is_name(name) and name not in question.without]
    if question.in_memory:
        return names, list(names)
    if not question.loaded or len(states) != len(values):
        return names, None
    pairs = zip(values, states, strict=True)
    return names, [name for name, state in pairs if name in names and _is_loaded(question, state)]


def _is_loaded(question: ModelList, state: Any) -> bool:
    return state == question.loaded_equals if question.loaded_equals else bool(state)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()
