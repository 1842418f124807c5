"""Scans this host for services, and asks recognised servers what they are; for ``gpumanctl init`` and ``setup``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpumand.cli.options import GlobalOptions

if TYPE_CHECKING:
    from gpumand.discovery.host import Host
    from gpumand.discovery.matching import Candidate
    from gpumand.discovery.server_models import ServerModels
    from gpumand.domain.gpu_settings import GpuSettings


async def scan_this_host(options: GlobalOptions, gpu: GpuSettings) -> Host:
    """Scan the host; without a bus, the units are missing from the result.

    Args:
        options: select the bus.
        gpu: the sources of VRAM readings.
    """
    from gpumand.bus.connection import BusConnection
    from gpumand.bus.connection_errors import BusLost
    from gpumand.discovery.scan import scan_host
    from gpumand.host.clock import SystemClock
    from gpumand.vram import make_source

    vram_source = make_source(gpu, SystemClock())
    try:
        bus = await BusConnection.connect(options.bus_address or ("session" if options.user else "system"))
    except BusLost as error:
        return await scan_host(None, vram_source, f"no D-Bus connection: {error}")
    try:
        return await scan_host(bus, vram_source)
    finally:
        await bus.close()


async def ask_servers(host: Host, found: list[Candidate]) -> tuple[list[Candidate], dict[str, ServerModels]]:
    """Ask the servers which preset fits, and for their models: the candidates, and the models by consumer name."""
    from gpumand.cli.server_questions import ServerQuestions
    from gpumand.consumers.routes import HttpRoutes
    from gpumand.discovery.starter_config import named_places, question_urls
    from gpumand.host.clock import SystemClock

    routes = HttpRoutes(SystemClock())
    try:
        questions = ServerQuestions(routes)
        found = await questions.resolve_roles(found, question_urls(host, found))
        return found, await questions.ask_models(named_places(found, question_urls(host, found)))
    finally:
        await routes.close()
