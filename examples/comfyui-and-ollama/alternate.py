#!/usr/bin/env python3
"""ollama writes what ComfyUI paints, in turn, on a card that has room for one: alternate.py "a lighthouse" "a harbour".

Neither server knows of the other. Each step holds a lease on the one it needs; gpumand unloads the other when there is
no room for both, and only then. Who holds the one while waiting for the other waits in vain: no step holds two leases.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from gpumand.client import GpumandError, SyncClient

MODEL = "llama3.1:8b"
WORKFLOW = Path(__file__).with_name("workflow.json")
WAIT_SEC = 600


def ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON that a POST answers, or without a body a GET."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=WAIT_SEC) as answer:
        return dict(json.load(answer))


def write(client: SyncClient, subject: str) -> str:
    """Have ollama describe a picture."""
    with client.lease("ollama", timeout_sec=WAIT_SEC, reason=f"a prompt for {subject}") as held:
        question = f"Describe a painting of {subject} in one line."
        answer = ask(f"{held.endpoint}/api/generate", {"model": MODEL, "prompt": question, "stream": False})
        return str(answer["response"])


def paint(client: SyncClient, text: str) -> list[str]:
    """Have ComfyUI paint it; the names of the files."""
    workflow = json.loads(WORKFLOW.read_text())
    workflow["positive"]["inputs"]["text"] = text
    with client.lease("comfyui", timeout_sec=WAIT_SEC, reason="painting") as held:
        job = str(ask(f"{held.endpoint}/prompt", {"prompt": workflow})["prompt_id"])
        # The lease must stand until the picture is there, not only until the job is queued.
        outputs = finished(held.endpoint, job)["outputs"]
    return [image["filename"] for output in outputs.values() for image in output.get("images", [])]


def finished(endpoint: str, job: str) -> dict[str, Any]:
    """What ComfyUI made of a job, when it is done with it."""
    deadline = time.monotonic() + WAIT_SEC
    while time.monotonic() < deadline:
        done = ask(f"{endpoint}/history/{job}")
        if job in done:
            if done[job]["status"]["status_str"] != "success":
                raise RuntimeError(f"ComfyUI could not do it: {done[job]['status']}")
            return dict(done[job])
        time.sleep(0.2)
    raise TimeoutError(f"ComfyUI was not done within {WAIT_SEC} s")


def main() -> int:
    """A picture for every subject on the command line."""
    try:
        with SyncClient() as client:
            for subject in sys.argv[1:]:
                text = write(client, subject)
                print(f"{subject}: {text}", flush=True)
                print(f"{subject}: {', '.join(paint(client, text))}", flush=True)
    except GpumandError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
