#!/bin/sh
# Puts the outside programs that the tests talk to within reach: uses what is on PATH, else unpacks the
# Debian package into .servers/ (nothing is installed into the system, no service is started). What cannot be
# had is written to .servers/skipped.txt with the reason; `make test` prints that file at its end.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .servers/bin
: >.servers/skipped.txt

skip() { # program reason
  echo "skipped: $1: $2" | tee -a .servers/skipped.txt
}

download() { # package
  (cd .servers && apt-get download "$1" >/dev/null 2>&1) && return 0
  [ "$(id -u)" = 0 ] || return 1
  apt-get update >/dev/null 2>&1 || return 1
  (cd .servers && apt-get download "$1" >/dev/null 2>&1)
}

need() { # program package path-in-package
  command -v "$1" >/dev/null 2>&1 && return 0
  [ -x ".servers/bin/$1" ] && return 0
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
    skip "$1" "not on PATH and this is not a Debian system; install it and run again"
    return 0
  fi
  if ! download "$2"; then
    skip "$1" "not on PATH and the Debian package $2 could not be downloaded"
    return 0
  fi
  dpkg-deb --extract ".servers/$2"_*.deb .servers/root
  rm -f ".servers/$2"_*.deb
  ln -sf "$PWD/.servers/root/$3" ".servers/bin/$1"
}

# One line each: program, Debian package, its place in the package.
need promtool prometheus usr/bin/promtool
