#!/bin/sh
# Hold a lease on a consumer while a command runs. Needs gdbus, which is part of GLib and so of every desktop.
#
#   gdbus-lease.sh comfyui ./render.sh
#
# Unlike busctl, gdbus prints the name of an error, so a script can react to it.
set -eu

consumer=$1
shift

manager() {
    method=$1
    shift
    # --timeout is the limit of gdbus itself (default 25 s); it must be longer than timeout_usec.
    gdbus call --system --timeout 330 --dest org.gpumand1 --object-path /org/gpumand1 \
        --method "org.gpumand1.Manager.$method" "$@"
}

# Release the lease in all cases: the command ends or fails, Ctrl-C, or a signal (sh handles it when the program that it
# waits for has ended). The traps come before Acquire, and "reply" is read here, because a signal may arrive in between.
reply=''
release() {
    # ('f3b1c9a27e604d21', {'consumer': <'comfyui'>, ..., 'endpoint': <'http://127.0.0.1:8188'>})
    lease=${reply#\(\'}
    if [ "$lease" != "$reply" ]; then manager Release "${lease%%\'*}" > /dev/null; fi
}
trap release EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Options are a dictionary of variants; an integer without a type is an int32. The lease outlives the connection of
# gdbus, so it has a time to live: one minute at first, in case gdbus is killed before it has printed the reply.
options="{'timeout_usec': <uint64 300000000>, 'ttl_usec': <uint64 60000000>, 'reason': <'$(basename "$1")'>}"

if ! reply=$(manager Acquire "$consumer" "$options" 2>&1); then
    case $reply in
        *org.gpumand1.Error.TimedOut*) echo "timed out after 5 min waiting for $consumer; try later" >&2 && exit 75 ;;
        *) echo "$reply" >&2 && exit 1 ;;
    esac
fi

lease=${reply#*\'}
lease=${lease%%\'*}
endpoint=${reply#*\'endpoint\': <\'}
endpoint=${endpoint%%\'*}

# Then two hours, which must be longer than the command runs. A command of unknown length renews it while it runs:
# manager Renew "$lease" 0
manager Renew "$lease" 7200000000 > /dev/null

GPUMAND_LEASE=$lease GPUMAND_ENDPOINT=$endpoint "$@"
