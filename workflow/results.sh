#!/usr/bin/env bash
# Publish the results of a grid as a folder of small files, or check such a folder without training.
#
#   workflow/results.sh publish PACK          compare all files with their records, then copy the records, metrics,
#                                             predictions, weights and images of the grid
#   workflow/results.sh check PACK [FOLDER]   compare the files in PACK with their records, and write the report
#
# The datasets and features are not copied, because they are large and can be recreated. `check` works in FOLDER (by
# default .results), a git worktree of the commit whose code produced the files. The results can therefore be checked
# even after the code on the current branch has changed.
set -euo pipefail
usage="usage: workflow/results.sh publish PACK, or workflow/results.sh check PACK [FOLDER]"
command=${1:?$usage}
pack=$(realpath -m "${2:?$usage}")

case $command in
publish)
    rr verify --allow-missing
    mkdir -p "$pack"
    git rev-parse HEAD >"$pack/commit"
    cp params.yaml dvc.lock "$pack"
    rm -rf "$pack/runs" "$pack/data"
    # Skip the state at the start of the last epoch: it is larger than the weights, and only `rr verify --recompute`
    # reads it.
    python - <<'END' | xargs -d '\n' cp --parents --target-directory "$pack"
from pathlib import Path

from rr import paths
from rr.params import load_params
from rr.workflow import stage_runs

for run in stage_runs.iter_stage_runs(load_params(paths.PARAMS_FILE)):
    if run.stage != "report":
        print(paths.record_file(run.folder))
    if run.stage in ("pretrain", "evaluate"):
        print(*(file for file in run.outputs if file.name != "last_epoch.safetensors"), sep="\n")
END
    ;;
check)
    folder=${3:-.results}
    commit=$(cat "$pack/commit")
    if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
        echo "results: this clone does not contain commit $commit: run git fetch --unshallow" >&2
        exit 2
    fi
    git worktree prune
    if [ -e "$folder" ]; then git worktree remove --force "$folder"; fi
    git worktree add --quiet --detach "$folder" "$commit"
    cp -r "$pack/data" "$pack/runs" "$pack/params.yaml" "$pack/dvc.lock" "$folder"
    cd "$folder"
    export PYTHONPATH=$PWD
    rr verify --allow-missing
    rr report
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
