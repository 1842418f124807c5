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

# Release the lease in all cases: the command ends or fails, Ctrl-C, or a signal (sh handles it when the program that it
# waits for has ended). The traps come before Acquire, and "reply" is read here, because a signal may arrive in between.
reply=''
release() {
    # sa{sv} "f3b1c9a27e604d21" 7 "consumer" s "comfyui" ... "endpoint" s "http://127.0.0.1:8188"
    lease=${reply#sa{sv\} \"}
    if [ "$lease" != "$reply" ]; then manager Release s "${lease%%\"*}"; fi
}
trap release EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The reply arrives when the consumer is resident. busctl writes an a{sv} as the number of entries, followed by the key,
# type and value of each. The lease outlives the connection of busctl, so it has a time to live: one minute at first, in
# case busctl is killed before it has printed the reply.
reply=$(manager Acquire 'sa{sv}' "$consumer" 3 \
    timeout_usec t 300000000 \
    ttl_usec t 60000000 \
    reason s "$(basename "$1")")

lease=${reply#*\"}
lease=${lease%%\"*}
endpoint=${reply#*\"endpoint\" s \"}
endpoint=${endpoint%%\"*}

# Then two hours, which must be longer than the command runs. A command of unknown length renews it while it runs:
# manager Renew st "$lease" 0
manager Renew st "$lease" 7200000000 > /dev/null

GPUMAND_LEASE=$lease GPUMAND_ENDPOINT=$endpoint "$@"
