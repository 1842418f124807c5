#!/usr/bin/env bash
# fetch.sh WHEELS_DIR: downloads everything that run.sh needs on a machine without package indexes:
# wheels for CPython 3.11 and 3.12 on x86-64 Linux, and Debian's dbus-daemon with the libraries it loads.
set -euo pipefail
folder=${1:?usage: fetch.sh WHEELS_DIR}
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

names=(
    aiohappyeyeballs aiohttp aiosignal attrs dbus-fast frozenlist idna multidict propcache typing_extensions yarl
    iniconfig packaging pluggy Pygments pytest pytest-asyncio pytest-timeout
)

pin() { grep -ix "$1==.*" "$root/requirements.lock"; }

fetch_wheels() {
    local name version tags=() pins=()
    for name in "${names[@]}"; do pins+=("$(pin "$name")"); done
    # pip matches tags literally, so every glibc version that the target may have is listed
    for version in $(seq 5 36); do tags+=(--platform "manylinux_2_${version}_x86_64"); done
    tags+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    for version in 3.11 3.12; do
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
            --python-version "$version" "${tags[@]}" --dest "$folder" "${pins[@]}"
    done
    # published as source only; its wheel works with every Python version
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$(pin sdnotify)"
}

libraries() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances dbus-daemon | grep -E '^lib' | grep -Ev '^lib(c6|gcc-s1|elogind0|.*-common)$'
}

fetch_debs() {
    [ "$(dpkg --print-architecture)" = amd64 ] || { echo "fetch.sh: needs an amd64 Debian for dbus-daemon" >&2; exit 1; }
    local wanted
    wanted=$(libraries)
    # shellcheck disable=SC2086 # package names, to be split
    (cd "$folder" && apt-get download --quiet=2 dbus-daemon $wanted)
}

fetch_wheels
fetch_debs
du -sh "$folder"
