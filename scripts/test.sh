#!/usr/bin/env bash
# What a change must pass. Arguments go to pytest:  scripts/test.sh -k video   scripts/test.sh quick tests/engine
#
#   scripts/test.sh          all, as CI does: set-up, format, lint, types, tests (with run-time shape checks, and the
#                            README's commands); types are checked while the first tests run
#   scripts/test.sh quick    the first fault, soon: types of what differs from main, tests that are not slow, those of the
#                            rooms that differ from main before all others; stops at the first that fails
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
quick=
[[ ${1:-} == quick ]] && { quick=yes; shift; }
bash scripts/setup.sh dev,nerf

export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # idle OpenMP workers sleep; spinning, they slow their neighbours 20 times
unset PYTHONDONTWRITEBYTECODE                      # a hundred processes read what the first compiled
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1            # no look-up for a newer pyright
python=.venv/bin/python

failed() { echo "== $1: FAILED. To see it alone: ${*:2}" >&2; }

step() { # step NAME COMMAND...
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    "$@" || { failed "$name" "$@"; exit 1; }
    echo "== $name: ok ($((SECONDS - began)) s)"
}

changed() { # Python files that differ from main, one a line; a dot where git cannot tell
    local base
    base=$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD 2>/dev/null) || { echo .; return; }
    { git diff --name-only --diff-filter=d "$base" -- '*.py'; git ls-files --others --exclude-standard -- '*.py'; } | sort -u
}

rooms() { # folders of tests of the rooms that differ from main, one a line: csd3d/media/x.py has tests/media
    changed | sed -nE 's:^(csd3d|tests)/([^/]+)/.*:tests/\2:p; s:^(video|panorama|scripts)/.*:tests/\1:p' | sort -u |
        while read -r folder; do [[ -d $folder ]] && echo "$folder"; done
}

types() { # types FILES...: silent unless it fails, since tests print meanwhile
    local output
    output=$("$python" -m pyright "$@" 2>&1) || { printf '\n%s\n' "$output" >&2; failed types "$python" -m pyright FILES; return 1; }
}

step format "$python" -m ruff format --check .
step lint "$python" -m ruff check .
if [[ $quick ]]; then
    mapfile -t files < <(changed)
    mapfile -t first < <(rooms)
    how=(-x --ff -m "not slow and not gpu")
else
    files=(csd3d video panorama scripts tests)
    first=()
    how=(--durations=10)
fi
tests() { # tests ARGUMENTS...; where nothing is selected (5) nothing is wrong
    local code=0
    "$python" -m pytest -q -n 2 --dist worksteal "${how[@]}" "$@" || code=$?
    ((code == 5)) && code=0
    ((code == 0)) || failed tests "$python" -m pytest "$@"
    return $code
}
echo "== types (${#files[@]} places, heard of only if they fail) and tests"
if ((${#files[@]})); then types "${files[@]}" & fi
code=0
if ((${#first[@]} && $# == 0)); then
    echo "== tests of what differs from main: ${first[*]}"
    tests "${first[@]}" && tests "${first[@]/#/--ignore=}" || code=$?
else
    tests "$@" || code=$?
fi
wait ${!:-} || code=1
exit $code
