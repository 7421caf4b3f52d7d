#!/bin/sh
# Makes or mends .venv at the repository root. Where it is up to date, this takes a few ms.
#   tools/setup.sh [EXTRA...]    with these extras of pyproject.toml: dev, video, bench, mujoco, ...
# RLZOO_PYTHON names the interpreter for a new .venv.
set -eu

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd -P)
stamp=$root/.venv/rlzoo-stamp # three lines: checksum, path of the clone, extras
checksum=$(cat "$root/pyproject.toml" "$root/tools/constraints.txt" | cksum)

is_up_to_date() { # EXTRA...
    [ -x "$root/.venv/bin/python" ] && [ -r "$stamp" ] || return 1
    { IFS= read -r sum && IFS= read -r path && IFS= read -r extras; } <"$stamp" || return 1
    [ "$sum" = "$checksum" ] && [ "$path" = "$root" ] || return 1
    for extra; do
        case " $extras " in *" $extra "*) ;; *) return 1 ;; esac
    done
}

# Exit status: 0 fits, 3 fits but cannot make a virtual environment, anything else does not fit.
probe='
import sys
from importlib.util import find_spec
if not (3, 11) <= sys.version_info < (3, 15):
    sys.exit(4)
sys.exit(0 if find_spec("venv") and find_spec("ensurepip") else 3)'

fail() {
    echo "rlzoo: $*" >&2
    exit 69 # EX_UNAVAILABLE
}

find_python() { # CANDIDATE...  sets $python
    incomplete=
    for python; do
        status=0
        "$python" -c "$probe" >/dev/null 2>&1 || status=$?
        case $status in
        0) return ;;
        3) incomplete=${incomplete:-$python} ;;
        esac
    done
    [ -z "$incomplete" ] || fail "$incomplete cannot make a virtual environment: venv or ensurepip" \
        "is missing (Debian and Ubuntu have them in the package python3-venv)"
    fail "found no Python 3.11 to 3.14 among: $*. Install one, or name one in RLZOO_PYTHON"
}

is_up_to_date "$@" && exit
if [ -n "${RLZOO_PYTHON:-}" ]; then
    find_python "$RLZOO_PYTHON"
else
    find_python python3.11 python3.13 python3.12 python3 python # the wheel of pybullet is for 3.11
fi
exec "$python" "$root/tools/install.py" "$checksum" "$@"
