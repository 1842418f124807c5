"""config-check asks the booted systemd, and a consumer may listen on a Unix socket."""

from __future__ import annotations

from tests.e2e.host import CONFIG, Host

SCRIPT, SOCKET = "/run/e2e-socket-server.py", "/run/e2e-socket/x.sock"
SERVER = f"""
import http.server, os, socketserver

os.makedirs(os.path.dirname("{SOCKET}"), exist_ok=True)

class Handler(http.server.BaseHTTPRequestHandler):
    loaded = False

    def answer(self):
        Handler.loaded = Handler.loaded if self.command == "GET" else self.path == "/api/load"
        body = b'{{"loaded": %s}}' % (b"true" if Handler.loaded else b"false")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass

with socketserver.ThreadingUnixStreamServer("{SOCKET}", Handler) as server:
    os.chmod("{SOCKET}", 0o666)
    server.serve_forever()
"""


def test_units_that_do_not_exist_are_findings_of_config_check(host: Host) -> None:
    host.holder("voice", 2000)
    host.configure('[consumers.gone]\nunit = "no-such.service"\nvram_resident_mib = 100')
    host.start()

    checked = host.machine.run(["gpumanctl", "config-check"])

    assert "is valid: 2 consumers" in checked.stdout
    (warning,) = checked.stderr.splitlines()
    assert warning.startswith("warning: gone: systemd has no unit no-such.service")


def test_size_with_a_unit_is_refused_with_the_number_to_write(host: Host) -> None:
    host.machine.write_file(CONFIG, '[consumers.chat]\nunit = "chat.service"\nvram_resident_mib = "13GB"\n')

    checked = host.machine.run(["gpumanctl", "config-check"], check=False)

    assert checked.returncode == 1
    assert f"{CONFIG}:3: consumers.chat.vram_resident_mib" in checked.stderr
    assert 'not "13GB": write 13312, in MiB' in checked.stderr


def test_consumer_on_a_unix_socket_is_loaded_and_evicted_by_the_hardened_daemon(host: Host) -> None:
    host.machine.write_file(SCRIPT, SERVER)
    host.unit("sockets", f"/usr/bin/python3 {SCRIPT}")
    host.machine.systemctl("start", "sockets")
    host.machine.wait_until(lambda: host.machine.run(["test", "-S", SOCKET], check=False).returncode == 0, "it listens")
    host.use_no_readings()
    host.configure(
        "[consumers.sockets]",
        "vram_resident_mib = 1000",
        f'url = "http://unix:{SOCKET}:/api"',
        'health = { path = "/health", loaded = "/loaded" }',
        'load = { path = "/load" }',
        'unload = { path = "/unload" }',
    )
    host.start()

    lease, _ = host.client.acquire("sockets")
    assert host.client.consumer("sockets")["residency"] == "resident"
    host.client.release(lease)
    host.machine.run(["gpumanctl", "evict", "sockets"])
    assert host.client.consumer("sockets")["residency"] == "unloaded"
    host.machine.remove(SCRIPT, "/run/e2e-socket")
