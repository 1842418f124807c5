"""A host whose consumers are real servers, and whose VRAM readings are the memory that these servers really hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.host import VRAM_DIR, Host
from tests.e2e.installation import module_command
from tests.real.announcer import PEAK
from tests.real.models import context_for, write_llama, write_noise, write_whisper

TOTAL_MIB = 290
"""Size of the simulated device: a llama-server with its model and a whisper-server do not fit together."""

CONTEXT_MIB = 200
LLAMA_MIB = 260
"""Footprint of a llama-server with a context of ``CONTEXT_MIB``: measured 240 to 250 MiB."""

ASLEEP_MIB = 60
"""Upper limit for a llama-server that sleeps: measured 43 MiB."""

WHISPER_MIB = 90
"""Footprint of a whisper-server: measured 55 MiB after its start, and up to 80 MiB during a transcription."""

MODELS = "/var/lib/models"
LLAMA_MODEL = f"{MODELS}/llama.gguf"
BROKEN_MODEL = "/var/lib/broken.gguf"
WHISPER_MODEL = f"{MODELS}/whisper.bin"
SOUND = f"{MODELS}/noise.wav"
SHORT_SOUND = f"{MODELS}/short.wav"
ROUTER_MODELS = "/etc/real-router.ini"
PACKAGED_UNIT = "llama-server.service"
PACKAGED_SETTINGS = "/etc/default/llama-server"
PACKAGED_PORT = 9931

HEALTH_INTERVAL = "health_interval_sec = 1"
HEAD = f"""
[scheduler]
concurrent_leases = 0
cushion_mib = 10
settle_timeout_sec = 5
{HEALTH_INTERVAL}
[gpu]
source = "simulated"
sample_interval_sec = 0.2
simulated_total_mib = [{TOTAL_MIB}]
simulated_dir = "{VRAM_DIR}"
"""


@dataclass
class RealHost(Host):
    """A ``Host`` with units and consumers for real servers."""

    _config: str = HEAD
    _cursor: str = ""

    def inside(self, path: str) -> Path:
        """Return the path at which the test process reaches a path of the machine."""
        return Path(f"/proc/{self.machine.container.leader}/root{path}")

    def put_models(self) -> None:
        """Write the models and the sound."""
        self.inside(MODELS).mkdir(exist_ok=True)
        write_llama(self.inside(LLAMA_MODEL))
        write_whisper(self.inside(WHISPER_MODEL))
        write_noise(self.inside(SOUND), seconds=30)
        write_noise(self.inside(SHORT_SOUND), seconds=5)
        self.inside(BROKEN_MODEL).write_bytes(b"no model" * 1000)

    def llama(self, name: str, port: int, *arguments: str) -> None:
        """Add a consumer that is a llama-server with one model, in a unit of its own."""
        context = f"--ctx-size {context_for(CONTEXT_MIB)}"
        words = f"--model {LLAMA_MODEL} --port {port} {context} --threads 1 {' '.join(arguments)}"
        self.unit(name, f"/usr/bin/llama-server {words}")
        self.consumer(name, LLAMA_MIB, 'preset = "llama-server"', f'url = "http://127.0.0.1:{port}"')

    def router(self, port: int, **models: str) -> None:
        """Write a unit ``router.service``: a llama-server in router mode.

        Args:
            port: its port.
            models: further settings of each model in the router's file, by model.
        """
        text = ["version = 1"]
        for model, settings in models.items():
            text += [f"[{model}]", f"model = {LLAMA_MODEL}", f"ctx-size = {context_for(CONTEXT_MIB)}", settings]
        self.machine.write_file(ROUTER_MODELS, "\n".join(text))
        self.unit("router", f"/usr/bin/llama-server --models-preset {ROUTER_MODELS} --port {port} --threads 1")

    def routed(self, model: str, port: int, unit: str = "router.service") -> None:
        """Add a consumer that is one model of a router."""
        where = [f'unit = "{unit}"', f'url = "http://127.0.0.1:{port}"']
        self.consumer(model, LLAMA_MIB, 'preset = "llama-cpp-router"', f'model = "{model}"', *where, unit=False)

    def packaged_router(self) -> None:
        """Configure Debian's own unit with a folder of models. It is a router, as its settings name no model."""
        settings = {"LLAMA_ARG_MODELS_DIR": MODELS, "LLAMA_ARG_CTX_SIZE": context_for(CONTEXT_MIB)}
        settings |= {"LLAMA_ARG_THREADS": 1}
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        self.machine.write_file(PACKAGED_SETTINGS, text)
        self._units.append(PACKAGED_UNIT)

    def whisper(self, name: str, port: int) -> None:
        """Add a consumer that is a whisper-server, in a unit of its own."""
        words = f"--model {WHISPER_MODEL} --port {port} --threads 1"
        self.unit(name, f"/usr/bin/whisper-server {words}", "WorkingDirectory=/tmp")
        self.consumer(name, WHISPER_MIB, 'preset = "whisper-cpp"', f'url = "http://127.0.0.1:{port}"')

    def probe_every(self, seconds: float) -> None:
        """Set how often the daemon checks the health of consumers, for changes that it must not have noticed yet."""
        self._config = self._config.replace(HEALTH_INTERVAL, f"health_interval_sec = {seconds}")

    def serve(self, unit: str, port: int) -> None:
        """Start the unit of a server, and wait until the server answers."""
        self.machine.systemctl("start", unit)
        ask = ["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/health"]
        self.machine.wait_until(lambda: self.machine.run(ask, check=False).returncode == 0, f"{unit} answers")

    def start(self) -> None:
        """Start the announcer and the daemon."""
        self.machine.run(["mkdir", "--parents", "--mode=1777", VRAM_DIR])
        self.unit("announcer", f"{module_command('tests.real.announcer')} {VRAM_DIR}")
        self.machine.systemctl("start", "announcer.service")
        super().start()

    def peak_mib(self) -> int:
        """Return the highest sum of memory that all servers together have held since ``start``."""
        return int(self.inside(f"{VRAM_DIR}/{PEAK}").read_text())

    def models(self, port: int) -> dict[str, str]:
        """Return the status of each model of a router, as the router reports it."""
        answer = self.machine.run(["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/models"]).stdout
        return {entry["id"]: entry["status"]["value"] for entry in json.loads(answer)["data"]}

    def tcp_segments(self) -> int:
        """Return how many TCP segments the machine has received. Only requests to servers use TCP in it."""
        lines = self.machine.run(["grep", "^Tcp:", "/proc/net/snmp"]).stdout.splitlines()
        names, values = (line.split() for line in lines)
        return int(values[names.index("InSegs")])

    def mark_log(self) -> None:
        """Let ``logged`` count from now on."""
        printed = self.machine.run(["journalctl", "--no-pager", "--lines=1", "--show-cursor"]).stdout
        self._cursor = printed.rpartition("-- cursor: ")[2].strip()

    def logged(self, unit: str, text: str) -> int:
        """Return how many lines with this text a unit has logged since ``mark_log``, systemd's lines on it included."""
        return len(self.logged_at(unit, text))

    def logged_at(self, unit: str, text: str) -> list[float]:
        """Return when these lines were logged, in seconds since 1970."""
        argv = ["journalctl", "--no-pager", "--output=json", f"--unit={unit}", f"--after-cursor={self._cursor}"]
        entries = map(json.loads, self.machine.run(argv).stdout.splitlines())
        return [int(entry["__REALTIME_TIMESTAMP"]) / 1e6 for entry in entries if text in str(entry["MESSAGE"])]
