#!/usr/bin/env bash
# Everything that only a GPU can show, in at most 20 minutes, as one page of Markdown:
#
#   scripts/check_gpu.sh [--out FILE] [--prior FOLDER] [--csd CHECKOUT] [--only PART ...] [--dry-run]
#
# Set-up first, where there is none; then tests, speed, memory, scenes, and what else is given (--help says it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ " $* " != *" --dry-run "* && " $* " != *" --help "* ]]; then
    command -v nvidia-smi >/dev/null 2>&1 || [[ -e /proc/driver/nvidia/version ]] ||
        { echo "check_gpu: expected an NVIDIA GPU with its driver, found none; scripts/test.sh tests without one" >&2; exit 2; }
    bash scripts/setup.sh dev,nerf
fi
exec .venv/bin/python -m scripts.check_gpu "$@"
