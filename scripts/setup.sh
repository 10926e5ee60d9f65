#!/usr/bin/env bash
# Make .venv and install csd3d into it, editable, under constraints.txt.
#
#   scripts/setup.sh [EXTRAS]      EXTRAS: comma-separated, default "dev"; "core" for none.
#   PYTHON=/path/to/python scripts/setup.sh      choose the interpreter (3.10, 3.11 or 3.12)
#
# Uses uv when it is on the PATH, otherwise python's own venv and pip. When everything asked for is
# installed already it returns at once and touches no network. The stamp is written last and a set-up
# that was interrupted is checked, and rebuilt if it left broken packages, so calling again is always safe.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "csd3d set-up: $*" >&2; }
die() { say "$@"; exit 1; }

VENV=.venv
STAMP=$VENV/csd3d-stamp
UNFINISHED=$VENV/csd3d-unfinished
EXTRAS=${1:-dev}
[[ $EXTRAS == core ]] && EXTRAS=""
[[ $EXTRAS =~ ^[a-z0-9,]*$ ]] || die "extras must be a comma-separated list like dev,nerf; got '$EXTRAS'"

fingerprint() { # of what decides the installation: the two files and where this checkout lies
    { cat pyproject.toml constraints.txt; pwd -P; } | cksum
}

union() { # of two comma-separated lists
    tr ',' '\n' <<<"$1,$2" | sed '/^$/d' | sort -u | paste -sd, -
}

installed_extras() { sed -n 2p "$STAMP" 2>/dev/null || true; }

ready() { # the stamp matches the files, and holds every extra asked for
    [[ -x $VENV/bin/python && -f $STAMP && ! -e $UNFINISHED ]] || return 1
    [[ $(sed -n 1p "$STAMP") == "$(fingerprint)" ]] || return 1
    [[ $(union "$(installed_extras)" "$EXTRAS") == "$(installed_extras)" ]] || return 1
    "$VENV/bin/python" -c '' 2>/dev/null
}

suitable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

find_python() { # prints the path of the first suitable interpreter; 3.11 first: constraints.txt was tried there
    local name seen=""
    if [[ -n ${PYTHON:-} ]]; then
        suitable "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.10, 3.11 or 3.12"
        "$PYTHON" -c 'import sys; print(sys.executable)'
        return
    fi
    for name in python3.11 python3.12 python3.10 python3 python; do
        if suitable "$name"; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
        seen+=" $("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)"
    done
    if command -v uv >/dev/null 2>&1; then
        say "no Python 3.10 to 3.12 on the PATH: leaving it to uv to find or fetch 3.11"
        echo 3.11
        return
    fi
    seen=$(tr ' ' '\n' <<<"$seen" | sed '/^$/d' | sort -u | paste -sd' ' -)
    die "needs Python 3.10, 3.11 or 3.12, found ${seen:-none}; install one (Debian, Ubuntu: apt install python3 python3-venv) or name it with PYTHON=/path/to/python3.11"
}

check_room() { # only a warning: the wheels may be cached, linked or smaller than expected
    local free_mb
    free_mb=$(df -Pm . | awk 'NR==2 {print $4}')
    if [[ $free_mb =~ ^[0-9]+$ ]] && ((free_mb < 7000)); then
        say "warning: an installation takes about 6 GB here, and $free_mb MB are free"
    fi
}

make_venv() {
    local python
    if suitable "$VENV/bin/python"; then return; fi
    if [[ -e $VENV ]]; then
        say "$VENV holds no working Python 3.10, 3.11 or 3.12: making it anew"
        rm -rf "$VENV"
    fi
    python=$(find_python) || exit 1
    check_room
    mkdir -p "$VENV" && touch "$UNFINISHED"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --allow-existing --python "$python" "$VENV" || die "uv could not make $VENV with $python"
    else
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            die "$python lacks its venv module; install it (Debian, Ubuntu: apt install python3-venv) or install uv"
        "$python" -m venv "$VENV" || die "$python -m venv failed"
    fi
}

broken_packages() { # names of installed packages with missing files (an installation was cut short)
    "$VENV/bin/python" -I - <<'PY' 2>/dev/null || echo python
import csv
from importlib.metadata import distributions

for d in distributions():
    rows = csv.reader((d.read_text("RECORD") or "").splitlines())
    files = [row[0] for row in rows if row and not row[0].endswith(".pyc")]
    if not files or not all(d.locate_file(name).exists() for name in files):
        print(d.metadata["Name"] or d)
PY
}

install() {
    local target=".${EXTRAS:+[$EXTRAS]}" quiet=()
    [[ -t 2 ]] || quiet=(--quiet)
    if command -v uv >/dev/null 2>&1; then
        uv pip install "${quiet[@]}" --python "$VENV/bin/python" -c constraints.txt -e "$target"
    else
        "$VENV/bin/python" -c 'import pip' 2>/dev/null || "$VENV/bin/python" -m ensurepip >/dev/null ||
            die "$VENV has neither pip nor uv beside it; remove $VENV and run this again"
        # as uv does, modules are compiled when first imported: most of the 24,000 never are
        "$VENV/bin/python" -m pip install "${quiet[@]}" --no-compile --disable-pip-version-check -c constraints.txt \
            -e "$target"
    fi
}

ready && exit 0
if command -v flock >/dev/null 2>&1; then # one set-up at a time; a second one waits, then finds it done
    exec 9>.venv.lock
    flock -n 9 || { say "another set-up is at work here; waiting for it"; flock 9; }
    ready && exit 0
fi

EXTRAS=$(union "$(installed_extras)" "$EXTRAS") # an update keeps the extras that are there
if [[ -e $UNFINISHED ]]; then
    broken=$(broken_packages | paste -sd' ' -)
    if [[ -n $broken ]]; then
        say "an earlier set-up was interrupted and left ${broken:0:120} broken: making $VENV anew"
        rm -rf "$VENV"
        [[ ! -e $VENV ]] || die "cannot remove $VENV"
    fi
fi
make_venv
tool=pip
command -v uv >/dev/null 2>&1 && tool=uv
say "installing csd3d${EXTRAS:+[$EXTRAS]} into $VENV with $tool: a few minutes and about 6 GB the first time"
touch "$UNFINISHED"
install || die "the installation failed (see above); once the cause is gone, run this again"
{ fingerprint; echo "$EXTRAS"; } >"$STAMP.new"
mv "$STAMP.new" "$STAMP"
rm -f "$UNFINISHED"
say "done: $VENV/bin/csd3d"
