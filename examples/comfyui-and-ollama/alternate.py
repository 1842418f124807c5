#!/usr/bin/env python3
"""ollama writes prompts and ComfyUI paints them, on a card with VRAM for one: alternate.py "a lighthouse" "a harbour".

The servers do not know each other. Each step holds a lease on the server it needs; gpumand unloads the other one only
if there is not enough VRAM for both. No step may hold two leases: the request for one server would wait for the lease
on the other to end.
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


def request_json(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON answer of a POST request, or of a GET request if there is no body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=WAIT_SEC) as answer:
        return dict(json.load(answer))


def write(client: SyncClient, subject: str) -> str:
    """Let ollama describe a picture."""
    with client.lease("ollama", timeout_sec=WAIT_SEC, reason=f"a prompt for {subject}") as held:
        question = f"Describe a painting of {subject} in one line."
        answer = request_json(f"{held.endpoint}/api/generate", {"model": MODEL, "prompt": question, "stream": False})
        return str(answer["response"])


def paint(client: SyncClient, text: str) -> list[str]:
    """Let ComfyUI paint the text; returns the names of the files."""
    workflow = json.loads(WORKFLOW.read_text())
    workflow["positive"]["inputs"]["text"] = text
    with client.lease("comfyui", timeout_sec=WAIT_SEC, reason="painting") as held:
        job = str(request_json(f"{held.endpoint}/prompt", {"prompt": workflow})["prompt_id"])
        # Keep the lease until the picture is finished, not only until the job is queued.
        outputs = finished(held.endpoint, job)["outputs"]
    return [image["filename"] for output in outputs.values() for image in output.get("images", [])]


def finished(endpoint: str, job: str) -> dict[str, Any]:
    """Wait until ComfyUI has finished a job; returns its history entry."""
    deadline = time.monotonic() + WAIT_SEC
    while time.monotonic() < deadline:
        done = request_json(f"{endpoint}/history/{job}")
        if job in done:
            if done[job]["status"]["status_str"] != "success":
                raise RuntimeError(f"ComfyUI failed: {done[job]['status']}")
            return dict(done[job])
        time.sleep(0.2)
    raise TimeoutError(f"ComfyUI did not finish within {WAIT_SEC} s")


def main() -> int:
    """Paint a picture for every subject on the command line."""
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
