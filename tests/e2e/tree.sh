#!/bin/sh
# Makes a Debian or Ubuntu tree that a machine can be booted over; runs in a private mount namespace.
# usage: tree.sh SUITE FOLDER MIRROR KEYRING PACKAGE...      (KEYRING: keys of Ubuntu's archive; "" = a Debian)
set -eu

suite=$1 folder=$2 mirror=$3 keyring=$4
shift 4
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

inside() {
    chroot "$folder" "$@"
}

if [ -z "$keyring" ]; then
    debootstrap --variant=minbase "$suite" "$folder" "$mirror"
else
    # "gutsy" is the recipe for all later releases, some of which a Debian's debootstrap does not know by name.
    debootstrap --variant=minbase --keyring="$keyring" --components=main,universe "$suite" "$folder" "$mirror" gutsy
fi
mount -t proc proc "$folder/proc"
# Nothing is started here, whatever a package wants.
printf '#!/bin/sh\nexit 101\n' > "$folder/usr/sbin/policy-rc.d"
chmod 0755 "$folder/usr/sbin/policy-rc.d"
# apt rather than debootstrap's --include, which knows neither alternatives nor virtual packages.
inside apt-get -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io install "$@"
inside apt-get clean
rm "$folder/usr/sbin/policy-rc.d" "$folder/etc/resolv.conf"
umount "$folder/proc"
