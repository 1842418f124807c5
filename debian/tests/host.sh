# Functions shared by the tests: a simulated device, and consumers with units. The tests source this file.
set -eu

folder=/run/gpumand-autopkgtest
drop_in=/etc/gpumand/conf.d/zz-autopkgtest.toml

die() {
    echo "$*" >&2
    journalctl --no-pager --lines=50 --unit=gpumand.service >&2
    exit 1
}

call() {
    busctl --timeout=60 call org.gpumand1 /org/gpumand1 org.gpumand1.Manager "$@"
}

# Sets up a device of 24 GiB and consumers of which only one fits at a time. usage: simulate NAME...
simulate() {
    trap clean_up EXIT
    consumers=$*
    mkdir -p "$folder"
    printf '[gpu]\nsource = "simulated"\nsimulated_total_mib = 24576\nsimulated_dir = "%s"\n' "$folder" > "$drop_in"
    for name in "$@"; do
        printf '[Service]\nType=exec\nExecStart=/usr/bin/python3 -m gpumand.testing.consumer --name=%s --mib=16000 %s\n' \
            "$name" "--simulator-dir=$folder --loaded-at-start" > "/run/systemd/system/$name.service"
        printf '[consumers.%s]\nvram_resident_mib = 16000\nunit = "%s.service"\n' "$name" "$name" >> "$drop_in"
    done
    systemctl daemon-reload
    systemctl restart gpumand.service
}

clean_up() {
    rm -f "$drop_in"
    for name in $consumers; do
        systemctl stop "$name.service"
        rm -rf "/run/systemd/system/$name.service" "/run/systemd/system/$name.service.d"
    done
    rm -rf "$folder"
    systemctl daemon-reload
    systemctl restart gpumand.service
}
