# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the Python file that Kamailio loads, and of the Python inside Kamailio that is to run it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from kemi_nsq.configuration.finding import CannotLook, Check, DoesNotApply, Finding, Grade
from kemi_nsq.settings import KEMI
from kemi_nsq.tools.doctor.scene import Scene

_MODULE_FOLDERS = ("/usr/lib/*/kamailio/modules", "/usr/lib*/kamailio/modules", "/usr/local/lib*/kamailio/modules")
_LIBRARY = re.compile(rb"libpython(3\.\d+)[a-z]*\.so")
_TRY_S = 20.0
_KEMI_CLASS = "KemiNsq"
#: Imports the package as Kamailio's Python does, through the nsq.py that lies beside the script.
_TRIAL = """
import sys, types
KSR = types.ModuleType("KSR")
KSR.crit = sys.stderr.write
sys.modules["KSR"] = KSR
sys.path.insert(0, sys.argv[1])
import nsq
from importlib.metadata import version
print(version("kemi-nsq"))
"""
#: How nsq.py begins to say that it finds no package.
_NOT_LOADED = "kemi-nsq cannot be loaded by "
_HANDLERS = ("handle_subscribe", "handle_publish")
_LOCK = "presence_lock"


def _script(scene: Scene) -> Path:
    if not scene.text.configuration.loads("app_python3"):
        raise DoesNotApply("app_python3.so is not loaded")
    return scene.script


def script(scene: Scene) -> Iterator[Finding]:
    """Find a script that Kamailio does not start without."""
    path = _script(scene)
    try:
        if not path.is_file():
            reason = f"NSQ_SCRIPT names {path}, and there is no such file: Kamailio does not start"
            yield Finding(Grade.ERROR, reason, "#!define NSQ_SCRIPT with the path that kemi-nsq files nsq.py prints")
            return
        for each in dict.fromkeys((path.absolute(), path.resolve())):
            if (closed := scene.user.reaches(each)) or not scene.user.may(each, os.R_OK):
                reason = f"{closed or each} keeps user {scene.user.name} from reading NSQ_SCRIPT {path}"
                yield Finding(Grade.ERROR, reason, "install where Kamailio's user can read: not in a home folder")
                return
    except OSError as error:
        raise CannotLook(f"{path}: {error.strerror}") from None


def script_class(scene: Scene) -> Iterator[Finding]:
    """Find a script whose class is for routes of the other language, with which Kamailio does not start."""
    try:
        source = _script(scene).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotLook(f"{scene.script}: {error.strerror}") from None
    kemi = KEMI in scene.text.configuration.defines
    if _KEMI_CLASS in source and not kemi:
        reason = (
            f"NSQ_SCRIPT {scene.script} has a class of KemiNsq, and NSQ_KEMI is not defined: Kamailio does not start"
        )
        yield Finding(Grade.ERROR, reason, "#!define NSQ_KEMI before nsq.cfg is included")
    elif kemi and scene.script.resolve().name == "nsq.py":
        reason = f"NSQ_KEMI is defined, and NSQ_SCRIPT {scene.script} has no class of KemiNsq: Kamailio does not start"
        yield Finding(Grade.ERROR, reason, "#!define NSQ_SCRIPT with your routes, as kemi_routes.py has them")


def _interpreter(scene: Scene) -> str:
    """Return the Python that Kamailio's module has inside, such as python3.11."""
    named = scene.text.configuration.text("", "mpath", scene.text.configuration.text("", "loadpath", ""))
    folders = [*filter(None, named.split(":"))] or chain.from_iterable(
        map(str, Path("/").glob(pattern[1:])) for pattern in _MODULE_FOLDERS
    )
    for folder in folders:
        try:
            match = _LIBRARY.search(Path(folder, "app_python3.so").read_bytes())
        except OSError:
            continue
        if match:
            return f"python{match[1].decode()}"
    raise CannotLook("Kamailio's module app_python3.so is not found here")


def _as_user(scene: Scene) -> dict[str, Any]:
    """Return arguments by which a child is Kamailio's user, if we may: root runs nothing that others can write."""
    if os.geteuid() or not scene.user.uid:
        return {}
    return {"user": scene.user.uid, "group": scene.user.gid, "extra_groups": sorted(scene.user.groups)}


def python(scene: Scene) -> Iterator[Finding]:
    """Find a package that Kamailio's own Python cannot import, or that is of another release than this command."""
    _script(scene)
    wanted = _interpreter(scene)
    folder = next(
        (each for each in (scene.script.parent, scene.script.resolve().parent) if (each / "nsq.py").is_file()), None
    )
    if folder is None:
        reason = f"no nsq.py lies beside {scene.script}: Kamailio's Python does not find the package"
        yield Finding(Grade.ERROR, reason, "put a link to it there: kemi-nsq files nsq.py says where it is")
        return
    program = f"/usr/bin/{wanted}"
    if not os.access(program, os.X_OK):
        raise CannotLook(f"Kamailio has {wanted} inside, and there is no {program} to try it with")
    try:
        done = subprocess.run(
            [program, "-I", "-c", _TRIAL, str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TRY_S,
            env={},
            **_as_user(scene),
        )
    except subprocess.TimeoutExpired:
        raise CannotLook(f"{program} does not end") from None
    ours = version("kemi-nsq")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        # nsq.py says what to do itself, after the last semicolon.
        reason, _, mend = said.rpartition("; ") if said.startswith(_NOT_LOADED) else ("", "", "")
        reason = reason or f"Kamailio's {wanted} cannot load kemi-nsq: {said}"
        yield Finding(Grade.ERROR, reason, mend or f"install it for {wanted}")
    elif (theirs := done.stdout.strip()) != ours:
        yield Finding(Grade.WARNING, f"Kamailio loads kemi-nsq {theirs}, and this command is of {ours}", "install one")


def handlers(scene: Scene) -> Iterator[Finding]:
    """Find calls of the presence module in Python that are in no `with self.presence_lock()` block."""
    if not scene.text.kemi:
        raise DoesNotApply("routes are native")
    try:
        tree = ast.parse(scene.script.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise CannotLook(f"{scene.script}: {error}") from None
    for line, name in _unlocked(tree, locked=False):
        reason = f"{scene.script}, line {line}: {name}() without the lock: SUBSCRIBEs fail on SQLite, a CSeq may repeat"
        yield Finding(Grade.WARNING, reason, "call self.nsq_pua_handle() instead, or in `with self.presence_lock():`")


def _unlocked(node: ast.AST, *, locked: bool) -> Iterator[tuple[int, str]]:
    """Find the line and name of each call that is not locked."""
    match node:
        case ast.With(items=items):
            locked = locked or any(_LOCK in ast.dump(item.context_expr) for item in items)
        case ast.Call(func=ast.Attribute(attr=name)) if name in _HANDLERS and not locked:
            yield node.lineno, name
    for child in ast.iter_child_nodes(node):
        yield from _unlocked(child, locked=locked)


CHECKS: tuple[Check[Scene], ...] = (
    Check("script", "NSQ_SCRIPT is there, and Kamailio's user can read it", script),
    Check("script-class", "the class in NSQ_SCRIPT is for the routes' language", script_class),
    Check("script-handlers", "it calls handle_subscribe and handle_publish under the lock alone", handlers),
    Check("python", "Kamailio's own Python can import the package, of the release of this command", python),
)
