#!/bin/sh
# Brings an environment up to its lock file:
#   runtime  .venv with what `qmtl` needs (adds, never removes)
#   dev      .venv exactly as requirements-dev.lock says
#   outside  .venvs/NAME for each tests/outside/requirements/NAME.txt
#   peers    .venvs/NAME for each bench/peers/NAME.txt
# A stamp beside each environment makes the second call free.
set -eu
cd "$(dirname "$0")/.."
export UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=system
# Compiled once here: a shell with PYTHONDONTWRITEBYTECODE set would compile numba at every start.
export UV_COMPILE_BYTECODE=1
quiet=${UV_QUIET_FLAG---quiet}

is_fresh() { # stamp source...
  stamp=$1
  shift
  [ -e "$stamp" ] || return 1
  for source in "$@"; do
    [ "$stamp" -nt "$source" ] || return 1
  done
}

make_venv() { # directory
  [ -x "$1/bin/python" ] || "$uv" venv $quiet --python '>=3.11' "$1"
}

install_self() {
  "$uv" pip install $quiet --python .venv --no-deps --no-build-isolation --editable .
  .venv/bin/python -m compileall -q qmtl
}

install_each() { # lock file...
  for lock in "$@"; do
    home=.venvs/$(basename "$lock" .txt)
    is_fresh "$home/.qmtl-outside" "$lock" && continue
    echo "installing $home from $lock"
    make_venv "$home"
    "$uv" pip sync $quiet --python "$home" --require-hashes "$lock"
    touch "$home/.qmtl-outside"
  done
}

uv=$(sh scripts/bootstrap.sh)
case "${1-}" in
runtime)
  is_fresh .venv/.qmtl-dev requirements-dev.lock pyproject.toml && exit 0
  is_fresh .venv/.qmtl-runtime requirements.lock pyproject.toml && exit 0
  echo "installing qmtl into .venv from requirements.lock"
  make_venv .venv
  "$uv" pip install $quiet --python .venv --require-hashes --requirements requirements.lock
  install_self
  touch .venv/.qmtl-runtime
  ;;
dev)
  is_fresh .venv/.qmtl-dev requirements-dev.lock pyproject.toml && exit 0
  echo "installing qmtl and its tools into .venv from requirements-dev.lock"
  make_venv .venv
  "$uv" pip sync $quiet --python .venv --require-hashes requirements-dev.lock
  install_self
  touch .venv/.qmtl-dev
  ;;
outside)
  install_each tests/outside/requirements/*.txt
  ;;
peers)
  install_each bench/peers/*.txt
  ;;
*)
  echo "usage: scripts/environment.sh runtime|dev|outside|peers" >&2
  exit 2
  ;;
esac
