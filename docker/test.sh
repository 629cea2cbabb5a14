#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs `make test` as on a fresh machine of another release of Debian: `docker/test.sh RELEASE`, as in docker/root.sh.
#
# A copy of the checkout is tested: what git tracks, as it is now, and new files that git does not ignore. Who has a
# checkout has git and make; all else is installed in there by its setup, but nsqd: this machine's programs, which are
# static, are put on PATH, so that Go is not needed. Output and exit code are those of make. A signal ends everything in
# there, and nothing is left.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PATH="$PATH:$checkout/.tools/bin"
fail() { printf 'test: %s\n' "$*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: docker/test.sh RELEASE"
cd "$checkout"
git rev-parse 2>/dev/null || fail "$checkout is no clone of the repository, so it is not known which files to copy"
bindings=()
for name in nsqd nsqlookupd; do
    program="$(command -v "$name")" || fail "there is no $name: make setup"
    bindings+=(--bind "$(readlink --canonicalize "$program"):/usr/local/bin/$name")
done

# It takes the place of this script, so that a signal to this process is one to it.
exec docker/root.sh "${bindings[@]}" "$1" git make -- \
    sh -c 'mkdir /srv/kemi-nsq && cd /srv/kemi-nsq && tar --extract && exec make test </dev/null' \
    < <(git ls-files -z --cached --others --exclude-standard -- . ':!.tools' |
        tar --create --null --files-from=- --ignore-failed-read)
