#!/usr/bin/env bash
# Everything a change must pass: set-up, format, lint, types, tests (with run-time shape checks, and the
# README's commands). Arguments go to pytest:  scripts/test.sh -k video
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh dev,nerf

export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # idle OpenMP workers sleep; spinning, they slow their neighbours 20 times
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1            # no look-up for a newer pyright
python=.venv/bin/python

step() {
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name: FAILED. To see it alone: $*" >&2; exit 1; }
    echo "== $name: ok ($((SECONDS - began)) s)"
}

step format "$python" -m ruff format --check .
step lint "$python" -m ruff check .
step types "$python" -m pyright
step tests "$python" -m pytest -q --durations=10 "$@"
