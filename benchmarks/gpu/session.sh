#!/usr/bin/env bash
# One command on a machine with a GPU and no network: installs the wheels that were carried in, once, and measures.
#
#   benchmarks/gpu/session.sh --section tests kernels parity throughput
#
# Results go to $OUT/gpu.json (here, if OUT is not set), a row at a time; `python -m benchmarks.gpu --help` has the rest.
# Beforehand, where there is a package index: benchmarks/gpu/wheels.sh
set -uo pipefail
cd "$(dirname "$0")/../.."

site=${BENCH_SITE:-/tmp/birefnet-site}
if compgen -G '.whl/*.whl' > /dev/null && [ ! -e "$site/.installed" ]; then
  # Its own folder and no dependencies: what the machine has, torch above all, stays as it is.
  python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl \
    && touch "$site/.installed" || echo "session.sh: the wheels could not be installed; sections that need them will say so" >&2
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/birefnet-triton} # kept for the next call on the same machine
exec python3 -m benchmarks.gpu --out "${OUT:-.}/gpu.json" --folder /tmp/birefnet-gpu "$@"
