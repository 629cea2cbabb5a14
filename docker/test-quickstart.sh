#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Does what docs/quickstart.md says, word for word, on a machine of each release that systemd runs:
# `docker/test-quickstart.sh FOLDER RELEASE...`, with the packages of `make deb`.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
fail() { printf 'test-quickstart: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] || fail "usage: docker/test-quickstart.sh FOLDER RELEASE..."
folder="$(cd "$1" && pwd)"
shift
nsqd="$(PATH="$PATH:$checkout/.tools/bin" command -v nsqd)" || fail "no nsqd on PATH and none in .tools/bin: run make setup"
declare -A number=([bookworm]=12 [trixie]=13)
# What the package depends on is there before, since a booted root has no network.
needed=(kamailio-{json,presence,python3,sqlite}-modules netbase python3 sqlite3 sudo)
work="$(mktemp --directory)"
trap 'rm --recursive --force "$work"' EXIT
for release in "$@"; do
    mkdir "$work/$release"
    cp "$folder"/kemi-nsq_*~deb"${number[$release]}"_*.deb "$checkout/docs/quickstart.md" "$work/$release"
    (cd "$checkout" && cp --parents tests/__init__.py tests/deb/*.py tests/support/*.py "$work/$release")
    "$checkout/docker/root.sh" --boot --bind "$work/$release:/work" --bind "$(readlink --canonicalize "$nsqd"):/usr/local/bin/nsqd" \
        "$release" "${needed[@]}" -- sh -c "cd /work && exec python3 -m tests.deb.quickstart /work"
done
