#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Tries the .deb in a fresh root of each release: `docker/test-deb.sh FOLDER RELEASE...`, after `make deb`.
#
# Installed by apt without recommended packages; a lamp; upgrade from the version before with a running Kamailio, and
# back; removed and purged, after which no file is left. The version before is this one under a lower number. The first
# of them is built a second time, which must give the same file.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf 'test-deb: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# --- in the root

install() { apt-get install --quiet=2 --yes --no-install-recommends "$@" >/work/apt.log 2>&1 || { cat /work/apt.log; exit 1; }; }

lower_version() {
    dpkg-deb --raw-extract "$1" /work/before
    sed --in-place 's/^Version: .*/Version: 0.0.1-1/' /work/before/DEBIAN/control
    dpkg-deb --build -Znone /work/before "$2" >/dev/null
    rm --recursive /work/before
}

files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /work -o -path /usr/local \
        -o -path /var/cache -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/apt \) -prune -o -print | sort
}

is_mode() { [ "$(stat --format='%a %U:%G' "$1")" = "$2" ] || fail "$1 has $(stat --format='%a %U:%G' "$1"), not $2"; }

try() {
    local package before=/work/before.deb
    package="$(echo /work/kemi-nsq_*.deb)"
    # No server is started by its package, as in a container.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    apt-get update --quiet=2
    lower_version "$package" "$before"
    say "installing what it depends on"
    # shellcheck disable=SC2046
    install $(apt-get install --simulate --no-install-recommends "$before" sqlite3 systemd |
        sed --quiet 's/^Inst \([^ ]*\) .*/\1/p' | grep --invert-match '^kemi-nsq$')
    files >/work/without
    say "installing the version before, and running it"
    install "$before"
    is_mode /etc/default/kemi-nsq "640 root:kamailio"
    is_mode /var/lib/kamailio "750 kamailio:kamailio"
    (cd /work && unshare --net -- /usr/lib/kemi-nsq/bin/python -m tests.deb.scene /work "$before" "$package")
    is_mode /etc/default/kemi-nsq "640 root:kamailio"
    is_mode /var/lib/kamailio/kamailio.db "640 kamailio:kamailio"
    [ -s /usr/share/man/man1/kemi-nsq-publish.1.gz ] || fail "there is no man page"
    bash -c '. /usr/share/bash-completion/completions/kemi-nsq; complete -p kemi-nsq' >/dev/null || fail "no completion"
    systemd-analyze verify --man=no kamailio.service || fail "systemd does not understand what the package adds"
    say "removing and purging it"
    apt-get remove --quiet=2 --yes kemi-nsq >/dev/null
    files >/work/removed
    diff /work/without <(grep --invert-match --line-regexp --regexp=/etc/default/kemi-nsq --regexp=/var/lib/kamailio \
        /work/removed | grep --invert-match '^/var/lib/kamailio/') || fail "its removal leaves these files"
    apt-get purge --quiet=2 --yes kemi-nsq >/dev/null
    [ -s /var/lib/kamailio/kamailio.db ] || fail "its purge has removed a database"
    rm -r /var/lib/kamailio
    files >/work/purged
    diff /work/without /work/purged || fail "its purge leaves these files"
}

# --- around it

if [ "${1-}" = --try ]; then
    try
    exit
fi
[ $# -ge 2 ] || fail "usage: docker/test-deb.sh FOLDER RELEASE..."
folder="$(cd "$1" && pwd)"
shift
nsqd="$(PATH="$PATH:$checkout/.tools/bin" command -v nsqd)" || fail "no nsqd on PATH and none in .tools/bin: run make setup"
work="$(mktemp --directory)"
trap 'rm --recursive --force "$work"' EXIT
say "building the one for $1 again"
"$checkout/docker/deb.sh" "$work/again" "$1"
for package in "$work"/again/*.deb; do
    cmp "$package" "$folder/$(basename "$package")" ||
        fail "a second build gives another file than $folder has: run make deb, and if it stays so, look with diffoscope"
done
number() { [ "$1" = bookworm ] && echo 12 || echo 13; }
for release in "$@"; do
    packages=("$folder"/kemi-nsq_*~deb"$(number "$release")"_*.deb)
    [ -e "${packages[0]}" ] && [ ${#packages[@]} -eq 1 ] || fail "$folder must have one .deb for $release: run make deb"
    rm --recursive --force "$work/$release"
    mkdir "$work/$release"
    cp "${packages[0]}" "$work/$release/"
    (cd "$checkout" && cp --parents tests/__init__.py tests/deb/*.py tests/support/*.py docker/test-deb.sh "$work/$release/")
    say "$release: $(basename "${packages[0]}"), $(stat --format=%s "${packages[0]}") bytes"
    "$checkout/docker/root.sh" --bind "$work/$release:/work" --bind "$nsqd:/usr/local/bin/nsqd" "$release" -- \
        bash /work/docker/test-deb.sh --try
    say "$release: passed"
done
