#!/bin/sh
# Rewrites the lock files from pyproject.toml, tests/outside/requirements/*.in and bench/peers/*.in. Versions
# already locked are kept; packages named as arguments move: scripts/lock.sh aiohttp polars
set -eu
cd "$(dirname "$0")/.."
uv=$(sh scripts/bootstrap.sh)

upgrades=
for package in "$@"; do
  upgrades="$upgrades --upgrade-package $package"
done

compile() { # target source options...
  target=$1
  shift
  # shellcheck disable=SC2086
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url $upgrades --output-file "$target" "$@" >/dev/null
}

compile requirements-dev.lock pyproject.toml --all-extras --group dev --group build
compile requirements.lock pyproject.toml --group build --constraints requirements-dev.lock
# What a server runs: history from exchanges, QuestDB and PostgreSQL (operations/compose/Dockerfile).
compile requirements-server.lock pyproject.toml --extra ccxt --extra questdb --extra postgres --group build \
  --constraints requirements-dev.lock
for wanted in tests/outside/requirements/*.in bench/peers/*.in; do
  compile "${wanted%.in}.txt" "$wanted"
done
grep -c '==' requirements.lock requirements-server.lock requirements-dev.lock tests/outside/requirements/*.txt bench/peers/*.txt
