# Sourced by the set-up scripts: where things are, and one writer at a time.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
private="$root/.corallite"   # everything fetched or made for the set-up; git-ignored
mkdir -p "$private"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# Hold the set-up lock until this script ends, so that two makes at once do not
# install into one folder. Without flock(1) there is nothing to hold.
lock() {
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$private/lock"
        flock 9
    fi
}

# The Python that the private one is made from: $PYTHON, else python3.
base_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Print nothing and succeed if that Python has pip.
has_pip() { "$1" -m pip --version >/dev/null 2>&1; }

# pip as a quiet tool: pip_run PYTHON ARGUMENTS...; everything it says goes to the log.
pip_run() {
    local python=$1
    shift
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore \
        "$python" -m pip "$@" >>"$private/pip.log" 2>&1
}
