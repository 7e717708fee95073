#!/usr/bin/env bash
# Prepare a machine: FFCV's system libraries, a virtual environment, exact versions. Called by `make`.
set -euo pipefail

if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "setup: $PYTHON is no Python 3.11 to 3.13: install one, then run 'make PYTHON=python3.12' (or the like)" >&2
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
    echo "setup: installing ${missing[*]} (FFCV is built against them)"
    if ! { command -v apt-get >/dev/null && "${as_root[@]}" apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null; }; then
        echo "setup: could not install them; run: sudo apt-get install ${missing[*]}   then run make again" >&2
        exit 2
    fi
fi

echo "setup: installing into $VENV (some minutes, 6 GB, most of it torch)"
"$PYTHON" -m venv "$VENV"
"$VENV/bin/pip" install --quiet --disable-pip-version-check -r requirements.lock
"$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
"$VENV/bin/python" -c 'import torch, torchvision, ffcv' || {
    echo "setup: torch, torchvision and ffcv do not import together: remove $VENV and run make again" >&2
    exit 2
}
