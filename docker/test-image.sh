#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Carries out docker/Dockerfile, docker/compose.yml and docker/compose.cluster.yml in a root folder: `docker/test-image.sh
# FOLDER`, with the packages of `make deb`. No container engine is needed; what stands in for one is
# tests/deb/containers.py. The compose files are read by Docker's own reader, which refuses what Docker would.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
fail() { printf 'test-image: %s\n' "$*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: docker/test-image.sh FOLDER"
folder="$(cd "$1" && pwd)"
PATH="$PATH:$checkout/.tools/bin"
[ "$(ls "$folder"/kemi-nsq_*~deb13_*.deb 2>/dev/null | wc -l)" = 1 ] || fail "$folder must have one .deb of Debian 13: make deb"
bindings=()
for name in nsqd nsqlookupd nsqadmin; do
    program="$(command -v "$name")" || fail "there is no $name on PATH and none in .tools/bin: install NSQ whole, or make setup"
    bindings+=(--bind "$(readlink --canonicalize "$program"):/usr/local/bin/$name")
done
work="$(mktemp --directory)"
trap 'rm --recursive --force "$work"' EXIT
mkdir "$work/dist"
command -v go >/dev/null || fail "there is no Go, with which Docker's reader of compose files is built"
(cd "$checkout/docker/compose" && go build -o "$work/compose-config" github.com/compose-spec/compose-go/v2/cmd)
cp "$folder"/kemi-nsq_*~deb13_*.deb "$work/dist"
cp "$checkout/docker/Dockerfile" "$checkout/tests/deb/lamp.xml" "$work"
(cd "$checkout" && cp --parents tests/__init__.py tests/deb/*.py tests/support/{__init__,until}.py "$work")
(
    cd "$checkout/docker"
    "$work/compose-config" -no-interpolation -format json compose.yml >"$work/single.json"
    "$work/compose-config" -no-interpolation -format json compose.yml compose.cluster.yml >"$work/cluster.json"
)
for site in single cluster; do
    "$checkout/docker/root.sh" --bind "$work:/work" "${bindings[@]}" trixie iproute2 postgresql python3 sip-tester -- \
        sh -ec "cd /work; python3 -m tests.deb.containers build /work; \
            exec unshare --net --mount -- python3 -m tests.deb.containers run /work $site.json"
done
