#!/bin/sh
# Hold a lease on a consumer while a command runs. Needs only busctl, which is part of systemd.
#
#   busctl-lease.sh comfyui ./render.sh
#
# If gpumanctl is installed, this does the same and more: gpumanctl run comfyui -- ./render.sh
set -eu

consumer=$1
shift

manager() {
    # --timeout is the limit of busctl itself (default 25 s); it must be longer than timeout_usec.
    busctl --timeout=330 call org.gpumand1 /org/gpumand1 org.gpumand1.Manager "$@"
}

# The reply arrives when the consumer is resident. busctl writes an a{sv} as the number of entries, followed by the key,
# type and value of each. The lease outlives the connection of busctl, so it has a time to live, which must be longer
# than the command runs. A command of unknown length renews the lease while it runs: manager Renew st "$lease" 0
reply=$(manager Acquire 'sa{sv}' "$consumer" 3 \
    timeout_usec t 300000000 \
    ttl_usec t 7200000000 \
    reason s "$(basename "$1")")

# sa{sv} "f3b1c9a27e604d21" 7 "consumer" s "comfyui" ... "endpoint" s "http://127.0.0.1:8188"
lease=${reply#*\"}
lease=${lease%%\"*}
endpoint=${reply#*\"endpoint\" s \"}
endpoint=${endpoint%%\"*}

# Release the lease in all cases: the command ends or fails, Ctrl-C, or a signal (sh handles it after the command ends).
trap 'manager Release s "$lease"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

GPUMAND_LEASE=$lease GPUMAND_ENDPOINT=$endpoint "$@"
