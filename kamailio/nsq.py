# SPDX-License-Identifier: GPL-2.0-or-later
"""What app_python3 loads: finds the package kemi-nsq for Kamailio's own Python, and hands its object over.

Looked at, in this order: the virtual environment of the checkout that this file belongs to (a symbolic link to this
file is followed), then whatever this Python finds by itself.
"""

from __future__ import annotations

import os
import re
import site
import sys

import KSR

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


def _use_environment() -> None:
    """Put the packages of the checkout's virtual environment before those of the system."""
    checkout = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    packages = os.path.join(checkout, ".venv", "lib", _VERSION, "site-packages")
    if os.path.isdir(packages):
        known = set(sys.path)
        site.addsitedir(packages)
        sys.path.sort(key=lambda path: path in known)


def _foreign_prefix() -> str:
    """Say what is wrong if this Python runs with another installation's standard library.

    libpython takes the first `python3` on PATH for its own installation.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        loaded = re.search(r"(/\S*)/lib/\S*libpython3", maps.read())
    if loaded is None or os.path.realpath(loaded[1] or "/") == os.path.realpath(sys.base_prefix):
        return ""
    return (
        f"it uses the library of {sys.base_prefix}: start Kamailio with a PATH that has {loaded[1]}/bin/python3 first"
    )


def _load() -> type:
    try:
        _use_environment()
        from kemi_nsq import NativeNsq
    except Exception as error:
        reason = _foreign_prefix() or (
            "run `make setup` in the checkout and let nsq.py be a symbolic link into it, "
            f"or install kemi-nsq for {_VERSION}"
        )
        KSR.crit(f"kemi-nsq cannot be loaded by Kamailio's {_VERSION} ({error!r}); {reason}\n")
        # The one exception for which Kamailio logs no traceback (python_support.c, python_handle_exception).
        raise SystemExit(1) from None
    return NativeNsq


_Handler = _load()


def mod_init() -> object:
    """Return the object that `python_exec` calls."""
    return _Handler()
