#!/bin/sh
# Puts the outside programs that the tests talk to within reach: uses what the machine has, else unpacks Debian
# packages and Maven artifacts into .servers/ (nothing is installed into the system, no service is started).
# What cannot be had is written to .servers/skipped.txt with the reason; `make test` prints that file at its end.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .servers/bin
: >.servers/skipped.txt

skip() { # program reason
  echo "skipped: $1: $2" | tee -a .servers/skipped.txt
}

is_here() { # program; what cannot say its version (its directory was moved, a library is gone) is not here
  command -v "$1" >/dev/null 2>&1 || ".servers/bin/$1" --version >/dev/null 2>&1
}

download() { # package
  (cd .servers && apt-get download "$1" >/dev/null 2>&1) && return 0
  [ "$(id -u)" = 0 ] || return 1
  apt-get update >/dev/null 2>&1 || return 1
  (cd .servers && apt-get download "$1" >/dev/null 2>&1)
}

need() { # program path-in-package package...
  program=$1 place=$2
  shift 2
  is_here "$program" && return 0
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
    skip "$program" "not on PATH and this is not a Debian system; install it and run again"
    return 0
  fi
  for package in "$@"; do
    if ! download "$package"; then
      skip "$program" "not on PATH and the Debian package $package could not be downloaded"
      return 0
    fi
    dpkg-deb --extract ".servers/$package"_*.deb .servers/debian
    rm -f ".servers/$package"_*.deb
  done
  # Libraries of the packages are found beside them, from wherever this directory was moved to, and the program
  # keeps its process id.
  libraries=$(find .servers/debian/usr/lib -name '*.so.*' -exec dirname {} + 2>/dev/null | sort -u |
    sed 's|^\.servers|$here|' | paste -sd: -)
  printf '#!/bin/sh\nhere=$(cd "$(dirname "$0")/.." && pwd)\n%s exec "%s" "$@"\n' \
    "LD_LIBRARY_PATH=\"$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\"" "\$here/debian/$place" >".servers/bin/$program"
  chmod +x ".servers/bin/$program"
}

fetch() { # group:name:version directory
  mkdir -p "$2"
  mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
    -Dartifact="$1" -DoutputDirectory="$2" >/dev/null 2>&1
}

need_questdb() { # version; one jar, run by the JDK
  [ -e ".servers/questdb/questdb-$1.jar" ] && return 0
  if ! command -v mvn >/dev/null 2>&1 || ! command -v java >/dev/null 2>&1; then
    skip questdb "needs java and mvn on PATH"
  elif ! fetch "org.questdb:questdb:$1" .servers/questdb; then
    skip questdb "mvn could not fetch org.questdb:questdb:$1"
  fi
}

need_postgres() { # version; the machine's own server, else binaries that run from any directory
  is_here initdb && return 0
  for program in /usr/lib/postgresql/*/bin/initdb; do
    if [ -x "$program" ]; then
      ln -sf "$program" .servers/bin/initdb
      return 0
    fi
  done
  case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) system=linux-amd64 ;;
  Linux-aarch64) system=linux-arm64v8 ;;
  *)
    skip postgres "not on PATH and no binaries are known for this system; install PostgreSQL and run again"
    return 0
    ;;
  esac
  artifact=embedded-postgres-binaries-$system
  if ! command -v mvn >/dev/null 2>&1; then
    skip postgres "not on PATH, and fetching it needs mvn"
  elif ! fetch "io.zonky.test.postgres:$artifact:$1" .servers/unpack; then
    skip postgres "not on PATH, and mvn could not fetch $artifact:$1"
  else
    (cd .servers/unpack && python3 -m zipfile -e "$artifact-$1.jar" .)
    mkdir -p .servers/postgres
    python3 -m tarfile -e .servers/unpack/*.txz .servers/postgres
    rm -r .servers/unpack
    ln -sf "$PWD/.servers/postgres/bin/initdb" .servers/bin/initdb
  fi
}

# One line each: program, its place in the package, Debian packages.
need promtool usr/bin/promtool prometheus
need redis-server usr/bin/redis-server libatomic1 libjemalloc2 liblzf1 redis-tools redis-server
need_postgres 17.5.0
need_questdb 9.3.4
