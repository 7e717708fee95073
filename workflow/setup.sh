#!/usr/bin/env bash
# Install the system libraries of FFCV, and install the locked Python packages into a virtual environment. `make setup`
# runs this script.
set -euo pipefail

if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "setup: $PYTHON is not Python 3.11 to 3.13. Install one of them and run, for example, 'make PYTHON=python3.12'" >&2
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
        echo "setup: cannot install ${missing[*]} (names of Debian packages). Install them, then run make again" >&2
        exit 2
    fi
fi

echo "setup: installing Python packages into $VENV (takes a few minutes and 6 GB, mostly for torch)"
"$PYTHON" -m venv "$VENV"
"$VENV/bin/pip" install --quiet --disable-pip-version-check -r requirements.lock
"$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
"$VENV/bin/python" -c 'import torch, torchvision, ffcv' || {
    echo "setup: importing torch, torchvision and ffcv failed: delete $VENV and run make again" >&2
    exit 2
}
