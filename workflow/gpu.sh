#!/bin/sh
# Measure the speed of a GPU. The script first measures the throughput of the training loop (Conv-4 and ResNet-32). Then
# it repeats the paper's Conv-4 run on CIFAR-10, from the download to linear evaluation (200 epochs, K = 32, seed 1). The
# paper reports an accuracy of 61.03 +- 0.23. Run the script in the root folder of the project:
#   workflow/gpu.sh [PARAMS] [DATASET]
set -eu
params=${1:-workflow/gpu.yaml}
dataset=${2:-cifar10}
if [ -z "${RR_DEVICE:-}" ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: no GPU found. On a CPU, the run would take about a day; to run it anyway, set RR_DEVICE=cpu" >&2
  exit 2
fi
rr bench gpu
export RR_PARAMS="$params"
rr fetch --dataset "$dataset"
rr convert --dataset "$dataset"
set -- --dataset "$dataset" --backbone conv4 --method relational-paper --seed 1
rr pretrain "$@"
rr extract "$@" --target "$dataset"
rr evaluate "$@" --target "$dataset" --protocol linear
folder="runs/evaluate/$dataset/conv4/relational-paper/1/$dataset/linear"
echo "--- $folder/metrics.json"
cat "$folder/metrics.json"
echo "--- runs/pretrain/$dataset/conv4/relational-paper/1/run.json: device, epoch_seconds, views_per_second"
cat "runs/pretrain/$dataset/conv4/relational-paper/1/run.json"
