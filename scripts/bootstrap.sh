#!/bin/sh
# Prints the path of a uv to use: the one on PATH, else one installed into .uv/ with pip.
set -eu
cd "$(dirname "$0")/.."

if command -v uv >/dev/null 2>&1; then
  command -v uv
  exit 0
fi
if [ -x .uv/bin/uv ]; then
  echo "$PWD/.uv/bin/uv"
  exit 0
fi

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: qmtl needs Python 3.11 or newer on PATH; found $(python3 --version 2>&1 || echo none)" >&2
  exit 2
fi
if ! "$python" -m venv .uv >&2; then
  rm -rf .uv
  echo "error: $python cannot create a virtual environment (Debian: install python3-venv)" >&2
  exit 2
fi
if ! .uv/bin/python -m pip install --quiet 'uv>=0.8' >&2; then
  rm -rf .uv
  echo "error: pip could not install uv; check the network or put uv on PATH" >&2
  exit 1
fi
echo "$PWD/.uv/bin/uv"
