#!/bin/sh
# Boots a throw-away copy of a system, "/" being this one; runs in a private mount namespace and ends as systemd-nspawn.
# usage: boot.sh BELOW FOLDER CGROUP NSPAWN_ARGUMENT...
#
# The copy is an overlay: what BELOW has below, a tmpfs above. No mount made here is seen outside.
# When standard input ends, because it was closed or because the test run died, everything is killed and FOLDER removed.
set -eu

below=$1 folder=$2 cgroup=/sys/fs/cgroup/$3
base=$folder/mounts
shift 3

overlay_root() {
    mkdir "$base"
    mount -t tmpfs -o mode=0755 gpumand-e2e "$base"
    mkdir "$base/upper" "$base/work" "$base/root"
    mount -t overlay -o "lowerdir=$below,upperdir=$base/upper,workdir=$base/work" gpumand-e2e "$base/root"
}

# Other file systems of this host (a /home, a /usr of its own) are not part of an overlay of "/": one more each.
overlay_others() {
    number=0
    findmnt --raw --noheadings --real --output TARGET,FSTYPE | while read -r target kind; do
        case "$target:$kind" in
        /:* | /boot* | /dev* | /proc* | /sys* | /run* | /tmp* | *:squashfs | *:vfat | *:nsfs) continue ;;
        esac
        [ -d "$target" ] && [ -d "$base/root$target" ] || continue
        number=$((number + 1))
        mkdir "$base/upper-$number" "$base/work-$number"
        mount -t overlay -o "lowerdir=$target,upperdir=$base/upper-$number,workdir=$base/work-$number" \
            gpumand-e2e "$base/root$target" || echo "boot.sh: $target ($kind) is left out" >&2
    done
}

# A host with cgroup v1 cannot boot a systemd that insists on v2; the unified hierarchy is there all the same, so the
# container is given that. A cgroup of our own keeps the container's tree apart from this host's units, and can be
# killed as one.
make_cgroup() {
    if [ "$(stat --file-system --format=%T /sys/fs/cgroup)" != cgroup2fs ]; then
        umount --recursive --lazy /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    fi
    mkdir "$cgroup"
}

# The payload first, so that systemd-nspawn can reap it.
kill_all() {
    for part in payload .; do
        [ -e "$cgroup/$part/cgroup.kill" ] || continue
        echo 1 > "$cgroup/$part/cgroup.kill"
        for _ in $(seq 200); do
            grep -q 'populated 1' "$cgroup/cgroup.events" || break
            sleep 0.01
        done
    done
}

clean_up_at_end_of_input() {
    cat > /dev/null
    set +e
    kill_all
    find "$cgroup" -depth -type d -exec rmdir {} +
    umount --recursive --lazy "$base"
    rm -rf "$folder"
}

# What the container's systemd must not do: this host's jobs, mounts, network and consoles.
# The drop-in folders of /etc say what an administrator enabled; what Debian itself wants stays.
quiet() {
    etc=$base/root/etc
    for wants in "$etc"/systemd/system/*.target.wants "$etc"/systemd/system/*.target.requires "$etc"/rc?.d; do
        [ ! -d "$wants" ] || find "$wants" -mindepth 1 -delete
    done
    for unit in "$@"; do
        ln -sf /dev/null "$etc/systemd/system/$unit"
    done
    : > "$etc/fstab"
    : > "$etc/crypttab"
    tr -d - < /proc/sys/kernel/random/uuid > "$etc/machine-id"
    mkdir -p "$etc/systemd/journald.conf.d"
    printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToConsole=no\n' \
        > "$etc/systemd/journald.conf.d/gpumand-e2e.conf"
}

make_cgroup
exec 3<&0 < /dev/null # a background job of sh has no standard input of its own
clean_up_at_end_of_input <&3 3<&- > /dev/null 2>&1 &
exec 3<&-
echo $$ > "$cgroup/cgroup.procs"
overlay_root
[ "$below" != / ] || overlay_others
quiet getty.target console-getty.service getty@.service serial-getty@.service container-getty@.service \
    systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-timesyncd.service \
    networking.service ifup@.service systemd-update-utmp.service systemd-udevd.service systemd-firstboot.service \
    apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer logrotate.timer \
    dpkg-db-backup.timer systemd-tmpfiles-clean.timer systemd-journal-flush.service ldconfig.service \
    apparmor.service ufw.service keyboard-setup.service console-setup.service rsync.service

# systemd-nspawn writes below /run; that is not this host's business either.
mount -t tmpfs -o mode=0755 gpumand-e2e /run
exec systemd-nspawn --directory="$base/root" "$@"
