#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs `make test` as on a fresh machine of another release of Debian: `docker/test.sh RELEASE [TARGET]...`, RELEASE as in
# docker/root.sh; with TARGETs, those of make.
#
# A copy of the checkout is tested, as a repository of one commit: what git tracks, as it is now, and new files that git
# does not ignore. Who has a checkout has git and make; all else is installed in there by its setup, but nsqd: this
# machine's programs, which are static, are put on PATH, so that Go is not needed. Output and exit code are those of
# make. A signal ends everything in there, and nothing is left.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PATH="$PATH:$checkout/.tools/bin"
fail() { printf 'test: %s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] || fail "usage: docker/test.sh RELEASE [TARGET]..."
release="$1"
shift
[ $# -gt 0 ] || set -- test
cd "$checkout"
git rev-parse 2>/dev/null || fail "$checkout is no clone of the repository, so it is not known which files to copy"
bindings=()
for name in nsqd nsqlookupd; do
    program="$(command -v "$name")" || fail "there is no $name: make setup"
    bindings+=(--bind "$(readlink --canonicalize "$program"):/usr/local/bin/$name")
done

# It takes the place of this script, so that a signal to this process is one to it.
exec docker/root.sh "${bindings[@]}" "$release" git make -- \
    sh -ec 'mkdir /srv/kemi-nsq; cd /srv/kemi-nsq; tar --extract
        git init --quiet; git add --all --force
        git -c user.name=test -c user.email=test@localhost commit --quiet --message="What is tested"
        exec make "$@" </dev/null' sh "$@" \
    < <(git ls-files -z --cached --others --exclude-standard -- . ':!.tools' |
        tar --create --null --files-from=- --ignore-failed-read)
