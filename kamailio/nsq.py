# SPDX-License-Identifier: GPL-2.0-or-later
"""What app_python3 loads: finds the package kemi-nsq for Kamailio's own Python, and hands its object over.

A symbolic link to this file is followed. Looked at, in this order: the site-packages folder in which this file lies,
when it came with a wheel; the virtual environment of the checkout that it belongs to; that of the Debian package; then
whatever this Python finds by itself.
"""

from __future__ import annotations

import glob
import os
import re
import site
import sys

import KSR

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_DEBIAN = "/usr/lib/kemi-nsq"  # the virtual environment of the .deb


def _environments() -> list[str]:
    """Return the site-packages folders in which the package may be, the one to be preferred first."""
    here = os.path.dirname(os.path.realpath(__file__))
    above = os.path.dirname(here)
    of_venv = os.path.join("lib", _VERSION, "site-packages")
    of_wheel = os.path.dirname(above)  # of its kemi_nsq/share
    return [of_wheel, os.path.join(above, ".venv", of_venv), os.path.join(_DEBIAN, of_venv)]


def _holds_package(folder: str) -> bool:
    return bool(glob.glob(os.path.join(glob.escape(folder), "kemi_nsq-*.dist-info")))


def _use_environment() -> None:
    """Put the packages of the environment that has kemi-nsq before those of the system."""
    for packages in filter(_holds_package, _environments()):
        known = set(sys.path)
        site.addsitedir(packages)
        sys.path.sort(key=lambda path: path in known)
        return


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
