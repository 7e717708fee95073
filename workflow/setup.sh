#!/usr/bin/env bash
# Install FFCV's system libraries, and install the locked Python packages into a virtual environment. `make setup` runs
# this script.
set -euo pipefail

if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "setup: $PYTHON is not Python 3.11 to 3.13. Install one of these versions and run, for example, 'make PYTHON=python3.12'" >&2
    exit 2
fi

missing=()
command -v c++ >/dev/null || missing+=(g++)
command -v pkg-config >/dev/null || missing+=(pkg-config)
pkg-config --exists opencv4 2>/dev/null || missing+=(libopencv-dev)
pkg-config --exists libturbojpeg 2>/dev/null || missing+=(libturbojpeg0-dev)
if [ ${#missing[@]} -gt 0 ]; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    echo "setup: installing ${missing[*]} (needed to build FFCV)"
    if ! { command -v apt-get >/dev/null && "${as_root[@]}" apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null; }; then
        echo "setup: cannot install ${missing[*]} (Debian package names). Install them, then run make again" >&2
        exit 2
    fi
fi

if [ -s "$VENV/ready" ] && [ "$(cat "$VENV/ready")" != "$(pwd -P)" ]; then # $PWD may contain a link
    echo "setup: this folder was moved or copied from $(cat "$VENV/ready"), so $VENV is created again"
    rm -rf "$VENV"
    hash -r # so that bash finds a Python outside this environment
fi
"$PYTHON" -m venv "$VENV"
if [ "$CPU" = 1 ]; then
    echo "setup: installing Python packages into $VENV, with torch for CPUs (takes a few minutes and 3 GB);" \
        "for torch with CUDA, stop this, delete $VENV and run make without CPU=1"
    # The index for CPU builds has the same versions of torch and torchvision, but different files, whose hashes are not
    # in the lock file. Everything else except the CUDA libraries is installed from the lock file.
    awk '/^[a-z]/ {skip = /^(torch|torchvision|triton|cuda-.*|nvidia-.*)==/ && !/^nvidia-ml-py==/} !skip' \
        requirements.lock >"$VENV/requirements.lock"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$VENV/requirements.lock"
    grep -oE '^(torch|torchvision)==[^ ]+' requirements.lock |
        "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --no-deps --torch-backend cpu -r -
else
    echo "setup: installing Python packages into $VENV (takes a few minutes and 7 GB, mostly for torch)"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -r requirements.lock
fi
"$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
"$VENV/bin/python" -c 'import torch, torchvision, ffcv' || {
    echo "setup: importing torch, torchvision and ffcv failed: delete $VENV and run make again" >&2
    exit 2
}
