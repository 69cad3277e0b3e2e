#!/usr/bin/env bash
# All that is still to be measured on a GPU, in a fresh checkout on a machine with one: tests that need it, the default
# run, the benchmark's rows for GPUs (share of the limit, number formats, torch.compile, data-parallel training where
# there are several), and the run of examples/one-gpu.yaml beside it. A row that fails is listed and the others go on.
#   bash benchmarks/gpu.sh
# Results: reports/bench.json, and reports/summary.json of the two runs.
set -euo pipefail
cd "$(dirname "$0")/.."
make .venv/.installed
export PATH="$PWD/.venv/bin:$PATH"
python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "gpu.sh: torch sees no GPU here")'
python -m pytest -q tests/pipeline/sparse/test_summary.py
dvc repro
python -m benchmarks.speed --gpu || echo "gpu.sh: the benchmark has rows without a value, see above"
beside="$(mktemp -d)/one-gpu"
git clone --quiet . "$beside"
cp examples/one-gpu.yaml "$beside/params.yaml"
cd "$beside"
python -m stages.check
dvc repro
echo "examples/one-gpu.yaml: $beside/reports/summary.json"
