#!/usr/bin/env bash
# Publish the results of a grid as a folder of small files, or check such a folder without training.
#
#   workflow/results.sh publish PACK          compare all files with their records, then copy the records, metrics,
#                                             predictions, weights and images of the grid
#   workflow/results.sh check PACK [FOLDER]   compare the files in PACK with their records, and write the report
#
# The datasets and features are not copied, because they are large and can be recreated. `check` works in FOLDER (by
# default .results/check), a git worktree of the commit whose code produced the files. The results can therefore be
# checked even after the code on the current branch has changed.
set -euo pipefail
usage="usage: workflow/results.sh publish PACK, or workflow/results.sh check PACK [FOLDER]"
command=${1:?$usage}
pack=$(realpath -m "${2:?$usage}")

case $command in
publish)
    if [ -n "$(git status --porcelain -- rr workflow dvc.yaml Snakefile)" ]; then
        echo "results: the code differs from the last commit, so nobody could check the results: commit it first" >&2
        exit 2
    fi
    rr verify --allow-missing
    mkdir -p "$(dirname "$pack")"
    new=$(mktemp --directory "$pack.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    git rev-parse HEAD >"$new/commit"
    cp params.yaml "$new"
    if [ -e dvc.lock ]; then cp dvc.lock "$new"; fi
    # Skip the state at the start of the last epoch: it is larger than the weights, and only `rr verify --recompute`
    # reads it.
    python - <<'END' | xargs -d '\n' cp --parents --target-directory "$new"
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
    mkdir -p "$pack"
    for name in commit params.yaml dvc.lock data runs; do
        rm -rf "${pack:?}/$name"
        if [ -e "$new/$name" ]; then mv "$new/$name" "$pack"; fi
    done
    ;;
check)
    folder=${3:-.results/check}
    commit=$(cat "$pack/commit")
    if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
        echo "results: this clone does not contain commit $commit: run git fetch --unshallow" >&2
        exit 2
    fi
    # If the clone was moved, git no longer finds its worktrees, so a marker file identifies the folders of this script.
    marker=.created-by-results-check
    if [ -e "$folder" ] && ! [ -f "$folder/$marker" ]; then
        echo "results: $folder exists, but was not created by a check: delete it, or specify a different folder" >&2
        exit 2
    fi
    rm -rf "$folder"
    git worktree prune
    git worktree add --quiet --detach "$folder" "$commit"
    touch "$folder/$marker"
    for name in data runs params.yaml dvc.lock; do
        if [ -e "$pack/$name" ]; then cp -r "$pack/$name" "$folder"; fi
    done
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
