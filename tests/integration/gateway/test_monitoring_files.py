"""The dashboard and the alert rules fit the metrics that a daemon and a gateway really have."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.exposition import parsed
from tests.integration.gateway.console import board
from tests.integration.gateway.live_gateway import free_port
from tests.integration.live import wait_until

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "contrib" / "grafana" / "gpumand.json"
RULES = ROOT / "contrib" / "prometheus"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")

METRIC = re.compile(r"\bgpumand_[a-z_]+")
# The simulated device and an idle host have no values for these.
WITHOUT_SAMPLES = {
    "gpumand_device_utilization_ratio",
    "gpumand_device_temperature_celsius",
    "gpumand_device_temperature_limit_celsius",
    "gpumand_device_power_watts",
    "gpumand_gateway_jobs_total",
}


async def promtool(*arguments: str, text: str = "") -> tuple[int, str]:
    """Run promtool; returns its exit status and its output."""
    assert PROMTOOL is not None
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        PROMTOOL, *arguments, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


def queries() -> list[str]:
    """All queries of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def used_metrics() -> set[str]:
    """The metrics that the dashboard and the rules use."""
    text = "\n".join([*queries(), (RULES / "gpumand.rules.yml").read_text(encoding="utf-8")])
    expressions = re.sub(r"(?m)^\s*#.*$", "", text)
    return set(METRIC.findall(expressions))


async def pages(folder: Path) -> tuple[str, str]:
    """The metrics of a daemon and of a gateway that have served requests, one of which its client has left."""
    port = free_port()
    async with board(folder) as made:
        configured = (made.front.host.folder / "gpumand.toml").read_text(encoding="utf-8")
        (made.front.host.folder / "gpumand.toml").write_text(
            f'{configured}\n[http]\nlisten = "127.0.0.1:{port}"\n', encoding="utf-8"
        )
        await made.front.control.call("Reload")
        lease = await made.front.block()
        url, session = f"{made.front.url}/echo", made.front.session
        leaving = asyncio.create_task(session.post(url, data=b"x"))
        staying = asyncio.create_task(session.post(url, data=b"x"))

        async def wait() -> bool:
            return len((await made.get("requests"))["requests"]) == 2

        await wait_until("two requests wait", wait)
        leaving.cancel()
        await made.front.control.release(lease)
        assert (await staying).status == 200

        async def has_all() -> bool:
            return 'status="499"' in await text_of(session, f"{made.url}/metrics")

        await wait_until("both requests have ended", has_all)
        daemon = await text_of(session, f"http://127.0.0.1:{port}/metrics")
        return daemon, await text_of(session, f"{made.url}/metrics")


async def text_of(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_dashboard_and_rules_use_only_metrics_that_exist_and_promtool_accepts_the_pages(tmp_path: Path) -> None:
    found = await pages(tmp_path)
    samples = {name for page in found for name, _ in parsed(page)}

    assert used_metrics() - samples - WITHOUT_SAMPLES == set()
    declared = {line.split()[2] for page in found for line in page.splitlines() if line.startswith("# TYPE ")}
    assert declared >= WITHOUT_SAMPLES
    if PROMTOOL is not None:
        for page in found:
            assert await promtool("check", "metrics", text=page) == (0, "")


async def test_every_metric_of_the_gateway_is_on_the_dashboard(tmp_path: Path) -> None:
    _, page = await pages(tmp_path)
    names = {name.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket") for name, _ in parsed(page)}
    shown = {name.removesuffix("_bucket") for name in used_metrics()}

    assert names - shown == {"gpumand_gateway_info"}


@needs_promtool
async def test_rules_are_valid_and_their_tests_pass() -> None:
    status, output = await promtool("check", "rules", str(RULES / "gpumand.rules.yml"))
    assert status == 0, output
    status, output = await promtool("test", "rules", str(RULES / "gpumand.rules.test.yml"))
    assert status == 0, output


@needs_promtool
async def test_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"test:query{number}", "expr": query.replace("$__rate_interval", "5m").replace("$consumer", ".*")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    status, output = await promtool("check", "rules", str(file))
    assert status == 0, output
    assert len(rules) > 20


def test_dashboard_fits_the_schema_of_grafana_and_every_key_of_it_is_known_there() -> None:
    register_default_plugins()
    raw = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    # Grafana's own classes read it; a key that they do not know would be missing in what they write.
    written = json.loads(json.dumps(Dashboard.from_json(raw), cls=JSONEncoder))

    assert list(lost(raw, written)) == []


def lost(given: Any, written: Any, path: str = "") -> list[str]:
    """The paths at which a document has lost something."""
    if isinstance(given, dict) and isinstance(written, dict):
        return [one for key, value in given.items() for one in lost(value, written.get(key), f"{path}/{key}")]
    if isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        pairs = enumerate(zip(given, written, strict=True))
        return [one for index, (old, new) in pairs for one in lost(old, new, f"{path}/{index}")]
    return [] if given == written or given in ([], {}, None) else [path]


def test_panels_do_not_overlap_and_have_titles_and_ids_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
