#!/bin/sh
# Measure the speed of a GPU in at most 8 minutes (RR_SECONDS changes this limit), and print one JSON object. The script
# first measures the throughput of the training loop (Conv-4 and ResNet-32) and compares the first losses with those on
# the CPU. It then runs the paper's Conv-4 experiment on CIFAR-10 (200 epochs, K = 32, seed 1) with linear evaluation.
# The paper reports an accuracy of 61.03 +- 0.23 for this experiment. If there is not enough time, training is stopped,
# and running the script again continues it. Run the script in the root folder of the project:
#   workflow/gpu.sh [PARAMS] [DATASET]
# The dataset is downloaded unless it has been converted already. The script needs neither DVC nor Snakemake.
set -eu
start=$(date +%s)
params=${1:-workflow/gpu.yaml}
dataset=${2:-cifar10}
if [ -z "${RR_DEVICE:-}" ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: no GPU found. On a CPU, the run would take hours (see rr plan); to run it anyway, set RR_DEVICE=cpu" >&2
  exit 2
fi
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
rr bench gpu --steps 10 --json >"$results/bench.json"
export RR_PARAMS="$params"
if ! [ -f "data/beton/$dataset/train.beton" ]; then
  rr fetch --dataset "$dataset" >&2
  rr convert --dataset "$dataset" >&2
fi
set -- --dataset "$dataset" --backbone conv4 --method relational-paper --seed 1
# Linear evaluation needs about 40 seconds.
seconds=$((${RR_SECONDS:-480} - 40 - $(date +%s) + start))
# `timeout` also stops torch.compile's processes. A training run that is still compiling would then wait for them, so it
# is killed after another 30 seconds.
status=124
if [ "$seconds" -gt 0 ]; then
  status=0
  timeout -k 30 "$seconds" rr pretrain "$@" >&2 || status=$?
fi
case $status in
  0)
    rr extract "$@" --target "$dataset" >&2
    rr evaluate "$@" --target "$dataset" --protocol linear >&2
    ;;
  124 | 137) echo "gpu.sh: training did not end within the time limit; run this script again to continue it" >&2 ;;
  *) exit "$status" ;;
esac
python - "$results/bench.json" "runs/pretrain/$dataset/conv4/relational-paper/1/run.json" \
  "runs/evaluate/$dataset/conv4/relational-paper/1/$dataset/linear/metrics.json" <<'EOF'
import json, pathlib, sys
bench, run, metrics = (json.loads(p.read_text()) if p.is_file() else None for p in map(pathlib.Path, sys.argv[1:]))
print(json.dumps({"bench": bench, "pretrain": run, "linear": metrics}, indent=1))
EOF
