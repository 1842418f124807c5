#!/bin/sh
# Hold a lease on a consumer while a command runs, with nothing but busctl, which every host with systemd has.
#
#   busctl-lease.sh comfyui ./render.sh
#
# Where gpumanctl is at hand, this does the same and more: gpumanctl run comfyui -- ./render.sh
set -eu

consumer=$1
shift

manager() {
    # --timeout is busctl's own patience (25 s unless told otherwise); let it be longer than the daemon's.
    busctl --timeout=330 call org.gpumand1 /org/gpumand1 org.gpumand1.Manager "$@"
}

# The reply comes when the consumer is resident. An a{sv} is written as: how many, then key, type and value of each.
# The lease outlives busctl's connection, so it has a time to live: longer than the command takes. One that may take
# longer than any guess renews it meanwhile: manager Renew st "$lease" 0
reply=$(manager Acquire 'sa{sv}' "$consumer" 3 \
    timeout_usec t 300000000 \
    ttl_usec t 7200000000 \
    reason s "$(basename "$1")")

# sa{sv} "f3b1c9a27e604d21" 7 "consumer" s "comfyui" ... "endpoint" s "http://127.0.0.1:8188"
lease=${reply#*\"}
lease=${lease%%\"*}
endpoint=${reply#*\"endpoint\" s \"}
endpoint=${endpoint%%\"*}

# Give it back whatever happens: the command ends or fails, Ctrl-C, a kill (which sh heeds when the command has ended).
trap 'manager Release s "$lease"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

GPUMAND_LEASE=$lease GPUMAND_ENDPOINT=$endpoint "$@"
