"""The configuration of the gateway: defaults, and errors with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.config.problems import ConfigProblems
from gpumand.config.table_schema import keys_of
from gpumand.gateway.config import TABLES, GatewaySettings, ListenerSettings, load
from gpumand.gateway.entrance_config import ModelRule, PathRule


def read(tmp_path: Path, text: str) -> GatewaySettings:
    file = tmp_path / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def test_file_that_is_missing_by_default_gives_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gpumand.gateway.config.DEFAULT_FILE", tmp_path / "none.toml")

    assert load() == GatewaySettings()


def test_defaults_of_the_tables_are_those_of_the_settings(tmp_path: Path) -> None:
    settings = read(tmp_path, "[gateway.listeners.a]\nlisten = '127.0.0.1:80'")

    assert settings == GatewaySettings(
        listeners={"a": ListenerSettings(name="a", consumer="a", listen=("127.0.0.1:80",))}
    )


def test_all_keys_are_read(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
        [gateway]
        wait_sec = 60
        host_names = ["ai.lan"]
        origins = ["http://ai.lan:3000", "null"]
        trusted_proxies = ["10.0.0.1", "fd00::1"]
        [gateway.listeners.web]
        listen = ["[::1]:8188", "unix:/run/x.sock"]
        consumer = "comfyui"
        preset = "comfyui"
        priority = -5
        websocket = "work"
        allow = ["POST /free"]
        busy = { path = "/prompt", pointers = ["/n"] }
        """,
    )
    web = settings.listeners["web"]

    assert (settings.wait_sec, settings.host_names, settings.origins) == (
        60,
        ("ai.lan",),
        ("http://ai.lan:3000", "null"),
    )
    assert settings.trusted_proxies == ("10.0.0.1", "fd00::1")
    assert (web.consumer, web.preset, web.priority, web.websocket) == ("comfyui", "comfyui", -5, "work")
    assert web.listen == ("[::1]:8188", "unix:/run/x.sock")
    assert web.busy is not None
    assert web.busy.path == "/prompt"


BAD = {
    "[gatway]": "unknown table",
    "[gateway]\nwait = 1": "unknown key",
    "gateway = 1": "must be a table",
    "[gateway]\nlisteners = 1": "must be a table that contains one table per listener",
    "[gateway.listeners.a]\nlisten = '0.0.0.0:80'": "reachable from other hosts",
    "[gateway.listeners.a]\nlisten = 'localhost:80'": "is not an IP address with a port",
    "[gateway.listeners.a]\nlisten = 'unix:run/x'": "absolute path",
    "[gateway.listeners.a]\npreset = 'olama'": "there is no preset",
    "[gateway.listeners.a]\nallow = ['/free']": "is not a method and a path",
    "[gateway.listeners.a]\nwebsocket = 'never'": "must be one of",
    "[gateway.listeners.'a b']": "is not a valid name",
    "[gateway]\norigins = ['http://a/b']": "is not an origin",
    "[gateway]\ntrusted_proxies = ['proxy']": "is not an IP address",
    "[gateway]\nhost_names = ['AI.lan']": "is not a host name in lower case",
    "[gateway]\nlease_ttl_sec = 1": "number from 10",
    "[gateway.listeners.a]\nlisten='127.0.0.1:80'\n[gateway.listeners.b]\nlisten='127.0.0.1:80'": "already used by",
}


@pytest.mark.parametrize("text", BAD)
def test_error_has_its_file_line_and_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigProblems) as raised:
        read(tmp_path, text)

    (problem,) = raised.value.problems
    assert BAD[text] in problem.message
    assert problem.file.endswith("gateway.toml")
    assert problem.line
    assert problem.key


def test_every_key_is_described_by_a_noun_phrase() -> None:
    keys = [one for table in TABLES.values() for one in keys_of(table).values()]

    assert len(keys) > 20
    assert all(one.doc[0].isupper() and one.doc.endswith(".") for one in keys)
    assert {one.name for one in keys if one.required} == {"consumer"}


def test_models_and_routes_name_a_consumer_or_have_a_table(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
        [gateway]
        listen = "127.0.0.1:8770"
        default_model = "qwen3"
        [gateway.models]
        discover = ["ollama"]
        "qwen*" = "llama"
        "org/whisper.large" = { consumer = "speech", as = "large-v3" }
        [gateway.routes]
        "/v1/tts" = "tts"
        "/v1/stt" = { consumer = "stt", path = "/inference" }
        """,
    )

    assert (settings.listen, settings.default_model, settings.discover) == (("127.0.0.1:8770",), "qwen3", ("ollama",))
    assert settings.models == (
        ModelRule(pattern="qwen*", consumer="llama"),
        ModelRule(pattern="org/whisper.large", consumer="speech", as_="large-v3"),
    )
    assert settings.routes == (
        PathRule(pattern="/v1/tts", consumer="tts"),
        PathRule(pattern="/v1/stt", consumer="stt", path="/inference"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway.models]\nqwen = 3", "must be a table"),
        ("[gateway.models]\nqwen = {}", "consumer"),
        ("[gateway.models]\nqwen = {consumer = 'a', os = 'b'}", "unknown key"),
        ("[gateway.models]\nqwen = '../x'", "not the name of a consumer"),
        ("[gateway.models]\ndiscover = 'ollama'", "must be a list"),
        ("[gateway]\nmodels = 3", "must be a table"),
        ("[gateway.routes]\ntts = 'a'", "not a path"),
        ("[gateway.routes]\n'/a/../b' = 'a'", "not a path"),
        ("[gateway.routes]\n'/a' = {consumer = 'a', path = '/b?c'}", "not a path"),
        ("[gateway.listeners.gateway]\nlisten = '127.0.0.1:1'", "name of the gateway itself"),
        ("[gateway]\nlisten='127.0.0.1:1'\n[gateway.listeners.a]\nlisten = '127.0.0.1:1'", "used by listen of"),
    ],
)
def test_invalid_models_and_routes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigProblems) as raised:
        read(tmp_path, text)
    assert message in str(raised.value)


def test_consumer_has_the_settings_of_its_first_listener(tmp_path: Path) -> None:
    settings = read(tmp_path, "[gateway.listeners.web]\nconsumer = 'comfyui'\npriority = 7")

    assert settings.of_consumer("comfyui").priority == 7
    assert settings.of_consumer("other") == ListenerSettings(name="other", consumer="other")
