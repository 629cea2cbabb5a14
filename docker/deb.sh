#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the .deb of each release in a fresh root of it: `docker/deb.sh [--version VERSION] FOLDER RELEASE...`
#
#   docker/deb.sh dist bookworm trixie    # dist/kemi-nsq_0.1.0-1~deb12_amd64.deb, dist/kemi-nsq_0.1.0-1~deb13_amd64.deb
#
# The version is that of pyproject.toml, and ~deb12 lets the package of the next release of Debian replace this one's.
# The times in it are those of the last commit (SOURCE_DATE_EPOCH, if set), so two builds give the same file.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
sources=(CHANGELOG.md LICENSE README.md UPGRADING.md debian docs hatch_build.py kamailio kemi_nsq pyproject.toml requirements.lock)

fail() { printf 'deb: %s\n' "$*" >&2; exit 1; }

# In the root: the build itself.
build() {
    local version="$1" release
    # Not below the bound folder: what others may look at there has nothing of a build.
    cp --recursive /source /build
    cd /build
    find . -name __pycache__ -prune -exec rm --recursive {} +
    sed --in-place "s/^version = .*/version = \"$version\"/" pyproject.toml
    release="$(. /etc/os-release; printf '%s' "$VERSION_ID")"
    cat >debian/changelog <<-END
	kemi-nsq ($version-1~deb$release) $(. /etc/os-release; printf '%s' "$VERSION_CODENAME"); urgency=medium

	  * CHANGELOG.md has what is new.

	 -- $(sed --quiet 's/^Maintainer: //p' debian/control)  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
	END
    dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >/result/build.log 2>&1 ||
        { tail --lines=40 /result/build.log >&2; exit 1; }
    cp /kemi-nsq_*.deb /result/
    lintian --fail-on error,warning --tag-display-limit 0 --profile debian --allow-root /kemi-nsq_*.deb ||
        { echo "deb: lintian has found this" >&2; exit 1; }
}

if [ "${1-}" = --build ]; then
    build "$2"
    exit
fi
version="$(sed --quiet 's/^version = "\(.*\)"/\1/p' "$checkout/pyproject.toml")"
if [ "${1-}" = --version ]; then version="$2"; shift 2; fi
[ $# -ge 2 ] || fail "usage: docker/deb.sh [--version VERSION] FOLDER RELEASE..."
mkdir --parents "$1"
folder="$(cd "$1" && pwd)"
shift
: "${SOURCE_DATE_EPOCH:=$(git -C "$checkout" log -1 --format=%ct)}"
work="$(mktemp --directory)"
trap 'rm --recursive --force "$work"' EXIT
mkdir "$work"/{source,result}
(cd "$checkout" && cp --recursive --parents "${sources[@]}" "$work/source" && cp docker/deb.sh "$work/source/deb.sh")
status=0
for release in "$@"; do
    "$checkout/docker/root.sh" --bind "$work/source:/source" --bind "$work/result:/result" \
        "$release" python3-venv debhelper bash-completion help2man lintian -- \
        env SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" bash /source/deb.sh --build "$version" || status=1
done
for package in "$work"/result/*.deb; do
    rm --force "$folder"/kemi-nsq_*"~${package##*\~}"  # of another version
    mv "$package" "$folder/"
done
exit "$status"
