#!/usr/bin/env bash
# Set-up, then the demo: a clip edited from one sentence, beside its source and the exact truth, in demo/.
# Arguments go to scripts/demo.py:  scripts/demo.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh dev
exec .venv/bin/python scripts/demo.py "$@"
