"""gpumanctl gateway: what it prints, the errors of the address, and the socket units."""

from __future__ import annotations

import configparser
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpumand.cli.app import gpumanctl

STATE: dict[str, Any] = {
    "gateway": {
        "version": "1.0",
        "started_usec": 0,
        "listeners": [{"name": "ollama", "consumer": "ollama", "address": "127.0.0.1:11434"}],
    },
    "gpumand": {"absence": ""},
    "status": None,
    "request_count": 2,
    "requests": [
        {
            "number": 7,
            "client": "127.0.0.1",
            "consumer": "ollama",
            "method": "POST",
            "path": "/api/chat\x1b[2J",
            "class": "work",
            "state": "waiting",
            "waits_for": "comfyui is leased",
            "began_usec": 0,
            "status": 0,
            "sent_bytes": 0,
        },
        {"number": 8, "consumer": "ollama", "state": "running", "sent_bytes": 5 << 20},
    ],
}


@contextmanager
def answering(status: int, document: Any) -> Iterator[tuple[str, list[str]]]:
    """A gateway that answers everything in this way: its address, and the requests that it got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(f"{self.command} {self.path} {self.headers['Content-Type']}")
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*words: str) -> Result:
    return CliRunner().invoke(gpumanctl, ["gateway", *words])


def test_status_shows_listeners_and_requests_without_control_characters() -> None:
    with answering(200, STATE) as (address, got):
        result = run("status", "--address", address)
    assert (result.exit_code, got) == (0, ["GET /gateway/v1/state application/json"])
    assert "1 listener, 2 requests in flight, 1 waiting" in result.output
    assert "127.0.0.1:11434" in result.output
    assert "comfyui is leased" in result.output
    assert "5 MiB" in result.output
    assert "\x1b" not in result.output


def test_json_is_what_the_gateway_answers() -> None:
    with answering(200, STATE) as (address, _):
        assert json.loads(run("status", "--json", "--address", address).output) == STATE
    with answering(200, {"requests": []}) as (address, _):
        assert run("requests", "--address", address).output == "No request is in flight, and no job is held.\n"


def test_cancel_is_a_post_of_json() -> None:
    with answering(200, {}) as (address, got):
        assert run("cancel", "7", "--address", address).output == "Request 7 was ended.\n"
    assert got == ["POST /gateway/v1/requests/7/cancel application/json"]


def test_held_jobs_are_counted_apart_from_requests_and_shown_with_what_they_wait_for() -> None:
    job = {"number": 9, "consumer": "comfyui", "state": "job", "waits_for": "comfyui reports 2 jobs"}
    with answering(200, STATE | {"request_count": 3, "requests": [*STATE["requests"], job]}) as (address, _):
        output = run("status", "--address", address).output
    assert "2 requests in flight, 1 waiting, 1 job held" in output
    assert "comfyui reports 2 jobs" in output


def test_cancel_of_a_job_says_what_becomes_of_its_work() -> None:
    with answering(200, {"message": "Its work goes on.\x1b[2J"}) as (address, _):
        output = run("cancel", "9", "--address", address).output
        document = json.loads(run("cancel", "9", "--json", "--address", address).output)
    assert output.startswith("Its work goes on.")
    assert "\x1b" not in output
    assert document == {"cancelled": 9, "message": "Its work goes on.\x1b[2J"}


@pytest.mark.parametrize(
    ("status", "document", "code", "text"),
    [
        (403, {"error": {"message": "This needs an API key."}}, 1, "This needs an API key"),
        (404, {"error": {"message": "There is no request 7."}}, 4, "There is no request 7"),
        (200, b"<html>", 1, "not as a gateway does"),
        (200, [1], 1, "not as a gateway does"),
        (500, {"error": 3}, 1, "status 500"),
    ],
)
def test_refusals_are_one_line(status: int, document: Any, code: int, text: str) -> None:
    with answering(status, document) as (address, _):
        result = run("cancel", "7", "--address", address)
    assert (result.exit_code, text in result.output) == (code, True)
    assert len(result.output.splitlines()) == 1


def test_gateway_that_does_not_run_is_named_with_the_command(tmp_path: Path) -> None:
    result = run("--quiet", "listeners", "--address", f"unix:{tmp_path}/none.sock")
    assert result.exit_code == 3
    assert "systemctl start gpumand-gateway" in result.output


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:x", ":8770", "127.0.0.1:99999"])
def test_address_that_is_none_is_a_usage_error(address: str) -> None:
    result = run("status", "--address", address)
    assert (result.exit_code, "HOST:PORT" in result.output) == (2, True)


def test_socket_units_have_the_listeners_addresses_and_names(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway.listeners.comfyui]\nlisten = ["127.0.0.1:8188", "unix:/run/gpumand-gateway/c.sock"]\n'
        "[gateway.listeners.passed]\n",
        encoding="utf-8",
    )
    units = json.loads(run("sockets", "--json", "--config", str(file)).output)
    assert list(units) == ["gpumand-gateway-comfyui.socket"]
    (text,) = units.values()
    assert "ListenStream=127.0.0.1:8188\nListenStream=/run/gpumand-gateway/c.sock\nSocketMode=0666\n" in text
    parsed = configparser.ConfigParser(strict=False)
    parsed.read_string(text)
    assert parsed["Socket"]["Service"] == "gpumand-gateway.service"
    assert parsed["Socket"]["FileDescriptorName"] == "comfyui"
    result = run("sockets", "--config", str(file), "--output", str(tmp_path))
    assert (tmp_path / "gpumand-gateway-comfyui.socket").read_text(encoding="utf-8") == text
    assert "systemctl enable --now gpumand-gateway-comfyui.socket" in result.output


def test_socket_unit_for_other_hosts_is_opened_before_its_address_exists(tmp_path: Path) -> None:
    file, keys = tmp_path / "gateway.toml", tmp_path / "keys.toml"
    keys.write_text(f'[keys.a]\nsha256 = "{"0" * 64}"\n', encoding="utf-8")
    file.write_text(
        f'[gateway]\nallow_remote = true\nkeys_file = "{keys}"\n'
        '[gateway.listeners.near]\nlisten = ["127.0.0.1:1", "unix:/run/x.sock"]\n'
        '[gateway.listeners.far]\nlisten = ["127.0.0.1:2", "172.17.0.1:2"]\n',
        encoding="utf-8",
    )
    units = json.loads(run("sockets", "--json", "--config", str(file)).output)
    with_free_bind = [name for name, text in units.items() if "FreeBind=yes" in text.splitlines()]
    assert with_free_bind == ["gpumand-gateway-far.socket"]


def test_sockets_without_listeners_and_with_errors_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("", encoding="utf-8")
    assert "no listener has an address" in run("sockets", "--config", str(file)).output
    file.write_text("[gateway]\nnonsense = 1\n", encoding="utf-8")
    result = run("sockets", "--config", str(file))
    assert (result.exit_code, "gateway.nonsense" in result.output) == (1, True)
