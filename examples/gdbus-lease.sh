#!/bin/sh
# Hold a lease on a consumer while a command runs, with gdbus, which comes with GLib and so with every desktop.
#
#   gdbus-lease.sh comfyui ./render.sh
#
# Unlike busctl, gdbus tells the name of an error, so a script can act on it.
set -eu

consumer=$1
shift

manager() {
    method=$1
    shift
    # --timeout is gdbus's own patience (25 s unless told otherwise); let it be longer than the daemon's.
    gdbus call --system --timeout 330 --dest org.gpumand1 --object-path /org/gpumand1 \
        --method "org.gpumand1.Manager.$method" "$@"
}

# Options are a dictionary of variants; integers are int32 where nothing else is said.
options="{'timeout_usec': <uint64 300000000>, 'ttl_usec': <uint64 7200000000>, 'reason': <'$(basename "$1")'>}"

if ! reply=$(manager Acquire "$consumer" "$options" 2>&1); then
    case $reply in
        *org.gpumand1.Error.TimedOut*) echo "no room for $consumer within five minutes; try later" >&2 && exit 75 ;;
        *) echo "$reply" >&2 && exit 1 ;;
    esac
fi

# ('f3b1c9a27e604d21', {'consumer': <'comfyui'>, ..., 'endpoint': <'http://127.0.0.1:8188'>})
lease=${reply#*\'}
lease=${lease%%\'*}
endpoint=${reply#*\'endpoint\': <\'}
endpoint=${endpoint%%\'*}

# Give it back whatever happens: the command ends or fails, Ctrl-C, a kill (which sh heeds when the command has ended).
trap 'manager Release "$lease" > /dev/null' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

GPUMAND_LEASE=$lease GPUMAND_ENDPOINT=$endpoint "$@"
