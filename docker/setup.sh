#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs what the project needs: `docker/setup.sh [--runtime] [packages|nsq|venv]...`, all three steps without a name.
#
#   packages  Kamailio with its modules and python3-venv, and what the tests need, from Debian
#   nsq       nsqd, nsqlookupd and nsqadmin: those on PATH, else built into .tools/bin
#   venv      .venv of /usr/bin/python3 with the locked requirements and this package, editable
#
# --runtime leaves out what only the tests and developers need; the image of docker/Dockerfile is built with it.
# Each step looks first and does nothing when nothing is to do. `make setup` and the image run this same file.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# A user's PATH on Debian lacks the sbin folders, where Kamailio is.
PATH="$PATH:$root/.tools/bin:/usr/sbin:/sbin"

# Debian's modules embed Debian's Python, so the package must live there and in no other Python that is on PATH.
python=/usr/bin/python3

server_packages=(
    kamailio kamailio-extra-modules kamailio-json-modules kamailio-mysql-modules kamailio-postgres-modules
    kamailio-presence-modules kamailio-python3-modules kamailio-sqlite-modules kamailio-utils-modules
    kamailio-xml-modules python3-venv
)
# tmux is the terminal in which the tests look at boards that live.
test_packages=(
    baresip-core curl kamailio-tls-modules mariadb-server mmdebstrap openssl postgresql prometheus sip-tester
    sqlite3 systemd-container tmux
)
# A library's name ends with its version, so each release has its own; elsewhere the program brings it along.
declare -A liblinphone=([bookworm]=liblinphone10 [trixie]=liblinphone12)
test_packages+=("${liblinphone[$(. /etc/os-release; echo "${VERSION_CODENAME:-unknown}")]:-linphone-cli}")

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# The checksum of what a step was made of: text, then files.
checksum() { { printf '%s\n' "$1"; cat "${@:2}"; } | sha256sum; }
is_stamped() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# --- packages

is_installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

step_packages() {
    local wanted=("${server_packages[@]}") missing=() name
    [ "$runtime" = yes ] || wanted+=("${test_packages[@]}")
    if ! have dpkg-query || ! have apt-get; then
        check_commands "${wanted[*]}"
        return
    fi
    for name in "${wanted[@]}"; do
        is_installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

install_packages() {
    [ "$(id -u)" -eq 0 ] || have sudo || fail "not root, and there is no sudo; as root, run: apt-get install $*"
    say "installing Debian packages: $*"
    as_root apt-get update --quiet --quiet
    # RUNLEVEL=1: without systemd, the servers among them are not started either.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --quiet --quiet --yes --no-install-recommends "$@"
    # With systemd they are, a SIP server on every address of the machine among them. Nobody asked for one.
    [ -d /run/systemd/system ] || return 0
    local server
    for server in kamailio mariadb-server postgresql prometheus; do
        if [[ " $* " = *" $server "* ]]; then as_root systemctl disable --quiet --now "${server%-server}.service"; fi
    done
}

check_commands() {
    local commands=(kamailio "$python") missing=() name
    [ "$runtime" = yes ] || commands+=(sipp)
    for name in "${commands[@]}"; do
        have "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] || fail "this is no Debian, and there is no ${missing[*]}. Install what Debian calls: $1"
    say "this is no Debian: taking Kamailio as it is. The modules wanted are in what Debian calls: $1"
}

# --- nsq

step_nsq() {
    local stamp="$root/.tools/nsq.stamp" sum
    sum="$(checksum "$(uname -sm)" "$root"/docker/nsq/go.{mod,sum})"
    if is_stamped "$stamp" "$sum" && [ -x "$root/.tools/bin/nsqd" ]; then return; fi
    if is_outside_tools nsqd && is_outside_tools nsqlookupd; then return; fi
    has_go || fail "no nsqd and nsqlookupd on PATH. Install NSQ 1.3 (https://nsq.io/deployment/installing.html)," \
        "or Go 1.24 or later (https://go.dev/dl/), with which this builds NSQ"
    say "building nsqd, nsqlookupd and nsqadmin into .tools/bin"
    (cd "$root/docker/nsq" && GOBIN="$root/.tools/bin" go install tool)
    printf '%s\n' "$sum" >"$stamp"
}

is_outside_tools() { have "$1" && [ "$(command -v "$1")" != "$root/.tools/bin/$1" ]; }

has_go() {
    local version
    version="$(go env GOVERSION 2>/dev/null)" || return 1
    [[ "$version" =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 24 ]
}

# --- venv

# .venv is a link to .venv-SUM, because scripts in a virtual environment hold its place: a new one is complete before the
# link leads to it, and when it cannot be made the one before stays.
step_venv() {
    local venv="$root/.venv" lock="$root/requirements-dev.lock" sum
    [ "$runtime" = no ] || lock="$root/requirements.lock"
    "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python must be Python 3.11 or later with the venv module; Debian: apt-get install python3-venv"
    # The project's place and the interpreter are part of it: scripts in a venv hold both.
    sum="$(checksum "$root $("$python" -VV)" "$lock")"
    is_stamped "$venv/requirements.stamp" "$sum" || make_venv "$venv" "$lock" "$sum"
    sum="$(checksum "$sum" "$root/pyproject.toml")"
    is_stamped "$venv/package.stamp" "$sum" || install_package "$venv" "$sum"
}

make_venv() {
    local venv="$1" lock="$2" sum="$3" new="$1-${3:0:12}" name
    say "making .venv: $("$python" -V), $(basename "$lock")"
    rm -rf "$new"
    if ! { "$python" -m venv "$new" && pip_install "$new" --require-hashes --requirement "$lock" &&
        printf '%s\n' "$sum" >"$new/requirements.stamp" &&
        install_package "$new" "$(checksum "$sum" "$root/pyproject.toml")"; }; then
        rm -rf "$new"
        fail "$(basename "$lock") cannot be installed, as said above; .venv is what it was"
    fi
    # Was it made by a version of this script before? A link cannot replace a folder in one step.
    [ -L "$venv" ] || [ ! -e "$venv" ] || mv "$venv" "$venv-before"
    rm -f "$venv-link"
    ln --symbolic "$(basename "$new")" "$venv-link"
    mv --no-target-directory "$venv-link" "$venv"
    for name in "$venv"-*; do [ "$name" = "$new" ] || rm -rf "$name"; done
}

install_package() {
    say "installing kemi-nsq into .venv, editable"
    # The lock holds the build backend too, so nothing is fetched.
    pip_install "$1" --no-deps --no-build-isolation --editable "$root" && printf '%s\n' "$2" >"$1/package.stamp"
}

pip_install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"; }

# ---

unset PYTHONHOME PYTHONPATH  # another Python's, where one is in use
runtime=no
if [ "${1-}" = --runtime ]; then runtime=yes; shift; fi
[ $# -gt 0 ] || set -- packages nsq venv
for step in "$@"; do
    case "$step" in
        packages | nsq | venv) "step_$step" ;;
        *) fail "no step is called $step; there are packages, nsq and venv" ;;
    esac
done
