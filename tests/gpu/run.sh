#!/usr/bin/env bash
# run.sh [WHEELS_DIR]: runs the GPU tests on a machine with an NVIDIA driver, Python 3.11 or newer and PyTorch, but no
# package index. The files that fetch.sh put into WHEELS_DIR are unpacked into a temporary folder; nothing is installed.
# Without WHEELS_DIR all dependencies must be installed. PYTHON=... names the interpreter that has PyTorch;
# GPU_MARKER= GPU_TESTS=tests/integration/test_gpu_scenario_on_fake_nvml.py tests the script itself without a GPU.
set -euo pipefail
python=${PYTHON:-python3}
wheels=${1:+$(cd "$1" && pwd)}
cd "$(dirname "$0")/../.."
target=$(mktemp -d "${TMPDIR:-/tmp}/gpumand-gpu.XXXXXX")
trap 'rm -rf "$target"' EXIT

say() { printf 'run.sh: %s\n' "$*" >&2; }

unpack_wheels() {
    local names
    # by name, so that pip picks the file that suits this interpreter
    names=$(find "$wheels" -name '*.whl' -printf '%f\n' | sed 's/-.*//' | sort -u)
    # shellcheck disable=SC2086 # package names, to be split
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --find-links "$wheels" --target "$target/site" $names
    export PYTHONPATH=$target/site${PYTHONPATH:+:$PYTHONPATH}
}

unpack_dbus() {
    local deb
    for deb in "$wheels"/*.deb; do dpkg -x "$deb" "$target/dbus"; done
    mkdir -p "$target/bin"
    # only dbus-daemon itself may see these libraries
    cat > "$target/bin/dbus-daemon" << WRAPPER
#!/bin/sh
LD_LIBRARY_PATH=$target/dbus/lib/x86_64-linux-gnu:$target/dbus/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH
exec $target/dbus/usr/bin/dbus-daemon "\$@"
WRAPPER
    chmod +x "$target/bin/dbus-daemon"
    export PATH=$target/bin:$PATH
}

marker=${GPU_MARKER-gpu}
if [ "$marker" = gpu ] && [ ! -e /dev/nvidiactl ]; then
    say "no NVIDIA driver found: all tests would be skipped"
    exit 1
fi
[ -z "$wheels" ] || unpack_wheels
if ! command -v dbus-daemon > /dev/null; then
    [ -n "$wheels" ] || { say "dbus-daemon is not installed: install it, or pass WHEELS_DIR"; exit 1; }
    unpack_dbus
fi
say "$("$python" -VV | head -n 1), $(dbus-daemon --version | head -n 1)"
# Plugins of the machine's Python are not loaded: warnings are errors, and a plugin could cause some.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
# shellcheck disable=SC2086 # paths, to be split
"$python" -m pytest -p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider -s -v \
    ${marker:+-m "$marker"} ${GPU_TESTS:-tests/gpu}
