#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs a command as root of a fresh Debian:
#
#   docker/root.sh [--boot] [--bind FROM:TO]... RELEASE [PACKAGE]... -- COMMAND [ARGUMENT]...
#   docker/root.sh --bind "$PWD:/checkout" trixie python3 -- python3 -VV
#
# RELEASE is a name as bookworm. Its packages come from the mirror that this machine's apt uses. --bind makes a folder or
# file of this machine visible in there, writable. pip in there uses the index and the certificates that pip uses here.
# COMMAND reads what this reads, but no terminal. What was made of a release and PACKAGEs is kept in .tools/roots for a
# day; COMMAND gets a copy of its own.
#
# With --boot systemd is started in there (systemd-nspawn), and COMMAND is run by a unit: it reads nothing, and has no
# network but loopback.
#
# Mounts and processes are those of a namespace (unshare(1)), so none of them outlives the command; the copy is removed.
# Exit code: that of COMMAND.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
kept="$checkout/.tools/roots"
keep_minutes=1440

say() { printf 'root: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null; }

usage() { fail "usage: docker/root.sh [--boot] [--bind FROM:TO]... RELEASE [PACKAGE]... -- COMMAND [ARGUMENT]..."; }

# What pip and apt need to reach their servers from here.
of_the_network=(http_proxy https_proxy no_proxy PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_PROXY
    PIP_DEFAULT_TIMEOUT)
certificates="${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}"

# --- this machine

become_root() {
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || fail "a root folder can be made by root only, and there is no sudo"
        exec sudo --preserve-env="$(IFS=,; echo "${of_the_network[*]}"),PIP_CERT,TMPDIR" -- "$0" "$@"
    fi
    have mmdebstrap || fail "there is no mmdebstrap: apt-get install mmdebstrap"
    unshare --mount --pid --fork -- mount -t tmpfs none /mnt 2>/dev/null ||
        fail "mounting is not allowed here (it needs CAP_SYS_ADMIN, which containers lack), so no root folder can be entered"
}

# The machine's sources of Debian, as lines for another release; none where apt has no lists: Debian's own then.
sources_of() {
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u |
        while read -r label uri; do
            case "$label" in
                Debian) printf 'deb %s %s main\ndeb %s %s-updates main\n' "$uri" "$1" "$uri" "$1" ;;
                Debian-Security) printf 'deb %s %s-security main\n' "$uri" "$1" ;;
            esac
        done
}

# Print the tar file of a root with a release's packages, made today.
base_of() {
    local release="$1" packages sources tar
    packages="$(IFS=,; echo "ca-certificates${2:+,${*:2}}")"
    sources="$(sources_of "$release")"
    tar="$kept/$release-$(printf '%s\n' "$packages" "$sources" | sha256sum | cut --characters=1-12).tar"
    mkdir --parents "$kept"
    chown --reference="$checkout" "$checkout/.tools" "$kept"
    find "$kept" -name '*.tar' -mmin "+$keep_minutes" -delete
    if [ ! -e "$tar" ]; then
        say "making a Debian $release with: $packages"
        # In the end by a new name: others may look for it meanwhile.
        printf '%s\n' "$sources" | mmdebstrap --quiet --variant=minbase --include="$packages" "$release" "$tar.$$.tar" \
            ${sources:+-} >&2 </dev/stdin || fail "mmdebstrap has not made a Debian $release; what it says stands above"
        mv "$tar.$$.tar" "$tar"
    fi
    printf '%s\n' "$tar"
}

# --- in the namespace

# Mount what Debian expects: devices of its own, so that nothing is left in this machine's /dev/shm.
enter() {
    local root="$1" name binding
    shift
    # / of the command is a mount, so that it may in turn use mount namespaces.
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root"/dev/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    ln --symbolic pts/ptmx /proc/self/fd "$root/dev"
    for name in stdin:0 stdout:1 stderr:2; do ln --symbolic "fd/${name#*:}" "$root/dev/${name%:*}"; done
    while [ "$1" != -- ]; do
        binding="$1"
        shift
        if [ -d "${binding%%:*}" ]; then
            mkdir --parents "$root${binding#*:}"
        else
            mkdir --parents "$(dirname "$root${binding#*:}")"
            touch "$root${binding#*:}"
        fi
        mount --bind "${binding%%:*}" "$root${binding#*:}"
    done
    shift
    local environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
        DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
        PYTHONDONTWRITEBYTECODE=1)
    for name in "${of_the_network[@]}"; do
        [ -z "${!name-}" ] || environment+=("$name=${!name}")
    done
    [ ! -e "$root/etc/pip-certificates.crt" ] || environment+=(PIP_CERT=/etc/pip-certificates.crt)
    cd "$root"
    exec env --ignore-environment "${environment[@]}" chroot . "$@"
}

# --- with systemd

# Start the root's own systemd, and have it run the command and stop.
boot() {
    local root="$1" options=() unit
    shift
    while [ "$1" != -- ]; do options+=("--bind=$1"); shift; done
    shift
    printf '%q ' exec "$@" >"$root/root-sh.command"
    unit="$root/etc/systemd/system/root-sh.service"
    cat >"$unit" <<-'END'
	[Unit]
	After=basic.target dbus.service
	[Service]
	Type=oneshot
	Environment=HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
	ExecStart=/bin/bash /root-sh.command
	StandardOutput=append:/root-sh.output
	StandardError=inherit
	ExecStopPost=/bin/sh -c 'echo "$$EXIT_STATUS" >/root-sh.status; systemctl poweroff --no-block'
	END
    mkdir --parents "$root/etc/systemd/system/multi-user.target.wants"
    ln --symbolic ../root-sh.service "$root/etc/systemd/system/multi-user.target.wants/"
    : >"$root/root-sh.output"
    systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe "${options[@]}" \
        --directory="$root" --boot </dev/null >"$root/root-sh.boot" 2>&1 &
    tail --follow --lines=+1 --pid=$! "$root/root-sh.output"
    [ -s "$root/root-sh.status" ] || { cat "$root/root-sh.boot" >&2; fail "systemd did not come up, or the command did not end"; }
    local status
    status="$(cat "$root/root-sh.status")"
    case "$status" in *[!0-9]*) fail "the command was ended by the signal $status" ;; esac
    exit "$status"
}

# --- around it

run() {
    local bindings=() packages=() way=--enter release tar
    if [ "${1-}" = --boot ]; then
        have systemd-nspawn || fail "there is no systemd-nspawn: apt-get install systemd-container"
        way=--in-systemd packages=(dbus systemd-sysv)
        shift
    fi
    while [ "${1-}" = --bind ]; do
        [[ "${2-}" = /*:/* ]] || usage
        bindings+=("$2")
        shift 2
    done
    release="${1-}"
    [[ "$release" =~ ^[a-z]+$ ]] || usage
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do packages+=("$1"); shift; done
    [ $# -ge 2 ] || usage

    tar="$(base_of "$release" "${packages[@]}")"
    root="$(mktemp --directory --tmpdir "kemi-nsq-$release.XXXXXX")"
    tar --extract --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' --file="$tar" --directory="$root"
    chmod 755 "$root"
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$(uname -n)" >"$root/etc/hosts"
    [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
    [ ! -e "$certificates" ] || cp "$certificates" "$root/etc/pip-certificates.crt"

    # In the background and with a process group of its own, so that a signal to this script is heard at once. A terminal
    # would stop it there when it reads.
    if [ -t 0 ]; then exec </dev/null; fi
    set -m
    unshare --mount --pid --fork --kill-child --mount-proc -- "$0" "$way" "$root" "${bindings[@]}" "$@" <&0 &
    child=$!
    wait "$child"
}

leave() {
    trap '' INT TERM HUP
    # unshare ends when its child is gone, the first process of the namespace, and with that process all others are.
    [ -z "$child" ] || { pkill -KILL --parent "$child" || kill -KILL "$child"; wait "$child"; } 2>/dev/null || true
    rm --force "$kept"/*".$$.tar"
    [ -z "$root" ] || rm --recursive --force --one-file-system "$root"
}

case "${1-}" in
    --enter) enter "${@:2}" ;;
    --in-systemd) boot "${@:2}" ;;
esac
root="" child=""
become_root "$@"
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
run "$@"
