#!/bin/sh
# Makes a Debian tree that a machine can be booted over; runs in a private mount namespace.
# usage: tree.sh SUITE FOLDER MIRROR PACKAGE...
set -eu

suite=$1 folder=$2 mirror=$3
shift 3
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

inside() {
    chroot "$folder" "$@"
}

debootstrap --variant=minbase "$suite" "$folder" "$mirror"
mount -t proc proc "$folder/proc"
# Nothing is started here, whatever a package wants.
printf '#!/bin/sh\nexit 101\n' > "$folder/usr/sbin/policy-rc.d"
chmod 0755 "$folder/usr/sbin/policy-rc.d"
# apt rather than debootstrap's --include, which knows neither alternatives nor virtual packages.
inside apt-get -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io install "$@"
inside apt-get clean
rm "$folder/usr/sbin/policy-rc.d" "$folder/etc/resolv.conf"
umount "$folder/proc"
