"""An example for every key of the configuration files, as TOML, for the reference.

``tests/integration/test_docs_examples.py`` checks that no key is left out, and that the readers accept each example.
"""

from __future__ import annotations

POINTER_EQUALS = '"ready"'

_SCHEDULER = {
    "policy": '"adaptive"',
    "overtake_budget_sec": "60",
    "min_turn_sec": "20",
    "overlap": '"measured"',
    "cushion_mib": "1024",
    "max_evictions": "3",
    "settle_timeout_sec": "20",
    "concurrent_leases": "1",
    "lease_ttl_sec": "3600",
    "health_interval_sec": "10",
    "host_ram_reserve_mib": "8192",
    "aging_sec": "300",
}

_GPU = {
    "source": '["nvml", "amdgpu"]',
    "sample_interval_sec": "1",
    "idle_release_sec": "300",
    "total_mib": "24564",
    "simulated_total_mib": "[24564, 16384]",
    "simulated_dir": '"/run/simulated-vram"',
    "device": '{ "0000:0c:00.0" = { ignore = true } }',
}

_CONSUMER = {
    "vram_resident_mib": "13312",
    "vram_guess_mib": "4096",
    "preset": '"comfyui"',
    "model": '"llama3.1:8b"',
    "unit": '"comfyui.service"',
    "container": '"docker:comfyui"',
    "slice": '"llm.slice"',
    "cgroup": '"/kubepods.slice/**/comfyui"',
    "url": '"http://127.0.0.1:8188"',
    "headers": '{ X-Client = "gpumand" }',
    "key_file": '"/etc/gpumand/keys/comfyui"',
    "key_header": '"x-api-key: {key}"',
    "health": '{ path = "/health" }',
    "busy": '{ path = "/queue", pointers = ["/running"] }',
    "busy_grace_sec": "300",
    "busy_after": '"refuse"',
    "load": '{ path = "/load" }',
    "unload": '{ path = "/unload" }',
    "evict": '["http", "unit-stop"]',
    "can_coexist_with": '["whisper"]',
    "vram_managed": "true",
    "residual_mib": "512",
    "idle_timeout_sec": "600",
    "load_timeout_sec": "900",
    "stop_timeout_sec": "30",
    "priority": "50",
    "pinned": "true",
    "loads_on_request": "true",
    "parks": "true",
    "parked_host_mib": "12288",
    "device": '"GPU-5d4b1cc2-6f2f-4c8e-9e0a-3f1f7a3c2b10"',
    "device_count": "2",
    "fleet": '"unique"',
}

_HEALTH = {
    "path": '"/models"',
    "loaded": '"/models/[id=x]/state"',
    "loaded_equals": POINTER_EQUALS,
    "unloaded_equals": '"none"',
    "unloaded_status": "503",
    "failed": '"/models/[id=x]/error"',
    "failed_equals": "true",
    "loading": '"/models/[id=x]/state"',
    "loading_equals": '"loading"',
    "sleeping": '"/is_sleeping"',
    "sleeping_equals": "true",
    "sleeping_path": '"/props"',
    "size": '"/models/[name=x]/size"',
    "size_vram": '"/models/[name=x]/size_vram"',
    "last_used": '"/last_used"',
    "headers": '{ Accept = "application/json" }',
    "timeout_sec": "2",
}

_BUSY = {
    "path": '"/slots"',
    "pointers": '["/*/is_processing"]',
    "equals": "true",
    "metrics": '["vllm:num_requests_running"]',
    "headers": '{ Accept = "application/json" }',
    "timeout_sec": "1",
    "connections": "true",
}

_ROUTE = {
    "path": '"/models/unload"',
    "method": '"DELETE"',
    "json": '{ model = "x" }',
    "headers": '{ Accept = "application/json" }',
    "timeout_sec": "120",
    "success": '"/status"',
    "success_equals": '"finished"',
    "error": '"/error"',
    "async_load": "true",
}

_GATEWAY = {
    "host_names": '["gpu.example.org"]',
    "origins": '["https://chat.example.org"]',
    "trusted_proxies": '["127.0.0.1"]',
    "keys_file": '"/etc/gpumand/gateway-keys.toml"',
    "require_key": "true",
    "allow_remote": "true",
    "listen": '["127.0.0.1:8770", "unix:/run/gpumand-gateway/own.sock"]',
    "default_model": '"qwen3-8b"',
    "access_log": "true",
    "state_dir": '"/var/lib/gpumand-gateway"',
    "spool_max_mib": "4096",
    "home": '["llama"]',
    "home_after_sec": "300",
    "wait_sec": "600",
    "patience_sec": "5",
    "drip_sec": "10",
    "turn_sec": "5",
    "linger_sec": "30",
    "lease_ttl_sec": "300",
    "drain_sec": "60",
    "max_connections": "4096",
    "max_waiting": "1024",
    "max_waiting_per_client": "16",
}

_LISTENER = {
    "listen": '"127.0.0.1:8188"',
    "consumer": '"comfyui"',
    "preset": '"comfyui"',
    "priority": "10",
    "websocket": '"work"',
    "ws_idle_sec": "60",
    "allow": '["POST /api/pull"]',
    "busy": '{ path = "/prompt", pointers = ["/exec_info/queue_remaining"] }',
    "busy_grace_sec": "120",
    "max_job_sec": "14400",
    "forward_user": "true",
    "early_status": "true",
    "slots": "4",
    "reserved_slots": "1",
    "key_file": '"/etc/gpumand/keys/comfyui"',
}

_HOOK = {
    "events": '["eviction-failed", "load-failed"]',
    "command": '["/usr/bin/notify-send", "gpumand"]',
    "webhook": '"https://chat.example.org/hooks/0123456789"',
    "headers": '{ Authorization = "Bearer 0123456789" }',
    "wait_sec": "120",
    "min_interval_sec": "60",
    "max_per_hour": "10",
    "timeout_sec": "5",
}

_FLEET = {
    "name": '"lab"',
    "host": '"gpu1"',
    "url": '"https://gpu1.example.org:8447"',
    "listen": '"192.0.2.10:8447"',
    "gateway_url": '"https://gpu1.example.org:8770"',
    "ca": '"/etc/gpumand/fleet/ca.crt"',
    "certificate": '"/etc/gpumand/fleet/host.crt"',
    "key": '"/etc/gpumand/fleet/host.key"',
    "ttl_sec": "20",
    "replicas_at": "8",
    "allow_plaintext": "true",
}

_NAMED_BY_HOST = ("fleet.peers", "fleet.allow")
"""Tables whose keys are names of hosts."""


def example(table: str, key: str) -> str:
    """Return a line of TOML for a key."""
    return f"{'gpu2' if table in _NAMED_BY_HOST else key} = {EXAMPLES[table][key]}"


EXAMPLES: dict[str, dict[str, str]] = {
    "scheduler": _SCHEDULER,
    "gpu": _GPU,
    "gpu.device.NAME": {"pool": '"vram"', "reserve_mib": "8192", "ignore": "true"},
    "http": {"listen": '"127.0.0.1:9876"', "allow_remote": "true"},
    "history": {"keep_days": "30", "demand_log": '"/var/lib/gpumand/demand.jsonl"'},
    "consumers.NAME": _CONSUMER,
    "consumers.NAME.health": _HEALTH,
    "consumers.NAME.busy": _BUSY,
    "consumers.NAME.load": _ROUTE | {"path": '"/models/load"', "method": '"PUT"'},
    "consumers.NAME.unload": {name: value for name, value in _ROUTE.items() if name != "async_load"},
    "gateway": _GATEWAY,
    "gateway.listeners.NAME": _LISTENER,
    "gateway.models.NAME": {"consumer": '"speech"', "as": '"Systran/faster-whisper-large-v3"'},
    "gateway.routes.PATH": {"consumer": '"kokoro"', "path": '"/v1/audio/speech"'},
    "gateway.fleet": {
        "enabled": "true",
        "socket": '"/run/gpumand-fleet/fleet.sock"',
        "key_file": '"/etc/gpumand/keys/fleet"',
    },
    "hooks.NAME": _HOOK,
    "fleet": _FLEET,
    "fleet.etcd": {
        "endpoints": '["https://gpu1.example.org:2379"]',
        "domain": '"gpu.example.org"',
        "user": '"gpu1"',
        "password_file": '"/etc/gpumand/fleet/etcd-password"',
    },
    "fleet.peers": {"HOST": '"https://gpu2.example.org:8447"'},
    "fleet.allow": {"HOST": '["acquire", "plan"]'},
}
"""Table -> key -> value in TOML."""
