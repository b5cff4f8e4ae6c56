#!/usr/bin/env bash
# Make .venv: all packages at the versions and hashes of requirements.lock, and .venv/bin/runner.
# Uses uv where it is installed, else venv and pip. Run by `make setup`; does nothing when .venv is current.
#
#   PYTHON        the Python to use, in place of the first that fits
#   TORCH_INDEX   install torch and its companions from this index and leave the CUDA packages out
#   EXTRA         install requirements-$EXTRA.lock as well
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() { say "$*" >&2; exit 1; }

requires=$(sed -n 's/^requires-python = "\(.*\)"$/\1/p' pyproject.toml) # such as >=3.11,<3.15
oldest=$(sed 's/.*>=3\.\([0-9]*\).*/\1/' <<<"$requires")
beyond=$(sed 's/.*<3\.\([0-9]*\).*/\1/' <<<"$requires")

# The stamp holds what .venv was made from, the index that torch came from and the extra: later runs keep both.
stamp=.venv/.setup-stamp
torch_index=${TORCH_INDEX:-$(sed -n 2p "$stamp" 2>/dev/null || true)}
extra=${EXTRA:-$(sed -n 3p "$stamp" 2>/dev/null || true)}
# The folder counts too: the scripts in .venv/bin name it.
sources=$({ pwd; cat requirements*.lock pyproject.toml; } | cksum)

fits() { "$1" -c "import sys; sys.exit(not (3, $oldest) <= sys.version_info < (3, $beyond))" >/dev/null 2>&1; }
has_uv() { command -v uv >/dev/null; }

is_current() {
    [ -x .venv/bin/runner ] && fits .venv/bin/python &&
        [ "$(cat "$stamp" 2>/dev/null)" = "$(printf '%s\n%s\n%s' "$sources" "$torch_index" "$extra")" ]
}

find_python() {
    local candidates=("${PYTHON:-python3}") minor
    for ((minor = beyond - 1; minor >= oldest; minor--)); do
        [ -n "${PYTHON:-}" ] || candidates+=("python3.$minor")
    done
    for python in "${candidates[@]}"; do
        if fits "$python"; then return; fi
    done
    fail "no Python $requires as ${candidates[*]}; install one (sudo apt install python3.12) or name it: make setup PYTHON=/path/to/python3"
}

make_venv() {
    if fits .venv/bin/python && { has_uv || .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
        say "keep .venv with $(.venv/bin/python --version)"
    elif has_uv; then
        say "make .venv with $(uv --version)"
        rm -rf .venv
        uv venv --quiet --python "${PYTHON:-$requires}" .venv
    else
        find_python
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            fail "$python has no venv module; install it (sudo apt install python3-venv), then run make setup again"
        say "make .venv with $("$python" --version)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
}

install() {
    if has_uv; then
        uv pip install --quiet --compile-bytecode --python .venv/bin/python "$@"
    else
        # The lock pins everything: a constraint from pip's own settings could only contradict it.
        PIP_CONSTRAINT=/dev/null .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
    fi
}

# install_locked LOCK OPTION…
install_locked() {
    local lock=$1
    shift
    if [ -n "$torch_index" ]; then
        local torch
        torch=$(grep -oE '^torch(audio|vision)?==[^ ]+' "$lock")
        say "install" $torch "from $torch_index"
        # shellcheck disable=SC2086 # several words on purpose
        install --no-deps --index-url "$torch_index" $torch
        awk -f scripts/without-cuda.awk "$lock" >".venv/${lock%.lock}-without-cuda.lock"
        lock=.venv/${lock%.lock}-without-cuda.lock
    fi
    say "install $(grep -c '==' "$lock") packages of $lock (minutes the first time: torch is large)"
    # Without dependencies: the locks are complete, and torch from another index has no hash in them.
    install --no-deps "$@" --require-hashes -r "$lock"
}

[ -z "$extra" ] || [ -f "requirements-$extra.lock" ] ||
    fail "no extra $extra; there is: $(printf '%s\n' requirements-*.lock | sed 's/requirements-\(.*\)\.lock/\1/')"
if is_current; then
    say ".venv is current"
    exit
fi
rm -f "$stamp"
make_venv
install_locked requirements.lock
# Some of its packages are built here, by the setuptools of the lock.
[ -z "$extra" ] || install_locked "requirements-$extra.lock" --no-build-isolation
say "install the runner itself"
# setuptools comes from the lock, so that nothing is fetched unlocked.
install --no-deps --no-build-isolation -e .
printf '%s\n%s\n%s\n' "$sources" "$torch_index" "$extra" >"$stamp"
say "done; try: .venv/bin/runner --help"
