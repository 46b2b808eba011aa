# What ci/test and ci/demo share: where things are, steps with their times, what is installed.
# Sourced, not run. The caller sets `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
# Everything that is installed for the checks lies here and can be thrown away.
VENV=$CARGO_TARGET_DIR/venv
RUNTIMES=$CARGO_TARGET_DIR/cuda-runtimes
PYTHON=$VENV/bin/python
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

SECONDS=0

# A line with the time since the start.
say() {
    printf '[%3d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"
}

# Debian packages, where what they bring is missing. C is for liburing inside glommio, and for the demo. Arguments:
# commands that are needed besides, named as their packages are.
install_debian() {
    local missing=() name
    for name in "$@"; do
        command -v "$name" >/dev/null || missing+=("$name")
    done
    command -v cc >/dev/null || missing+=(gcc)
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    command -v make >/dev/null || missing+=(make)
    # Without ensurepip there may be a python3, but no way to make a virtual environment.
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    local sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# A network that hiccups is no failure.
pip_install() {
    local try
    for try in 1 2 3; do
        "$PYTHON" -m pip install -q --retries 5 --timeout 60 "$@" && return
        say "pip install failed ($try of 3)"
        sleep $((5 * try))
    done
    return 1
}

# The virtual environment with ci/requirements.txt in it.
install_python() {
    [ -x "$PYTHON" ] || python3 -m venv "$VENV"
    if ! cmp -s "$ROOT/ci/requirements.txt" "$VENV/installed"; then
        say "installing CuPy and NVIDIA's runtimes from PyPI"
        pip_install -r "$ROOT/ci/requirements.txt"
        cp "$ROOT/ci/requirements.txt" "$VENV/installed"
    fi
}

# One folder of $RUNTIMES for each line of ci/runtimes.txt: versions that cannot be installed side by side.
install_runtimes() {
    local name packages
    while read -r name packages; do
        case $name in '' | '#'*) continue ;; esac
        [ -e "$RUNTIMES/$name/installed" ] && [ "$(cat "$RUNTIMES/$name/installed")" = "$packages" ] && continue
        say "installing $packages"
        rm -rf "${RUNTIMES:?}/$name"
        # shellcheck disable=SC2086 # a list of packages
        pip_install --no-deps --target "$RUNTIMES/$name" $packages
        echo "$packages" >"$RUNTIMES/$name/installed"
    done <"$ROOT/ci/runtimes.txt"
}
