# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the machine: files, their owners and modes, Python and its packages, what others can see."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from kemi_nsq.configuration.finding import CannotLook, Check, DoesNotApply, Finding, Grade
from kemi_nsq.runtime.processes import is_running
from kemi_nsq.tools.doctor import kamailio
from kemi_nsq.tools.doctor.scene import Scene

_OTHERS_READ, _OTHERS_WRITE = stat.S_IRGRP | stat.S_IROTH, stat.S_IWGRP | stat.S_IWOTH
_NAME = re.compile(r"[A-Za-z_]\w*(?==)")
#: A user and a password before a host.
_SECRET = re.compile(r"://[^\s/:@\"']*:[^\s@\"']+@")


def _sqlite(scene: Scene) -> Path:
    if scene.database_file is None:
        raise DoesNotApply("NSQ_DB_URL is no SQLite file")
    return scene.database_file


def database_file(scene: Scene) -> Iterator[Finding]:
    """Find an SQLite file that Kamailio's user cannot write, or others can read."""
    path, user = _sqlite(scene), scene.user
    try:
        if closed := user.reaches(path):
            yield Finding(
                Grade.ERROR, f"{closed} keeps user {user.name} from the database {path}", f"chmod o+x {closed}"
            )
        elif not path.exists():
            raise DoesNotApply("the file is not there, which the check `database` says")
        elif not user.may(path, os.R_OK | os.W_OK):
            yield Finding(
                Grade.ERROR, f"user {user.name} cannot write the database {path}", f"chown {user.name} {path}"
            )
        elif not user.may(path.parent, os.W_OK):
            reason = f"user {user.name} cannot write the folder of {path}, where SQLite puts its -wal and -shm"
            yield Finding(Grade.ERROR, reason, f"chown {user.name} {path.parent}")
        elif path.stat().st_mode & stat.S_IROTH and all(each.stat().st_mode & stat.S_IXOTH for each in path.parents):
            reason = f"everybody can read the database {path}, passwords among it"
            yield Finding(Grade.WARNING, reason, f"chmod o= {path}*")
    except PermissionError:
        raise
    except OSError as error:
        raise CannotLook(f"{path}: {error.strerror}") from None


def network_file(scene: Scene) -> Iterator[Finding]:
    """Find an SQLite file where WAL mode does not work: it needs memory that all its users share."""
    path = _sqlite(scene)
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise CannotLook(f"/proc/mounts: {error.strerror}") from None
    kinds = {Path(where): kind for _, where, kind, *_ in mounts}
    kind = next((kinds[each] for each in path.resolve().parents if each in kinds), "")
    if kind.startswith(("nfs", "cifs", "smb", "9p", "fuse.sshfs", "ceph", "glusterfs")):
        reason = f"the database {path} is on a network file system ({kind}), where SQLite's WAL mode does not work"
        yield Finding(Grade.ERROR, reason, "put it on a disk of this machine, or use a database server")


def configuration_files(scene: Scene) -> Iterator[Finding]:
    """Find files of the configuration that others can change, or that show a password to everybody."""
    for path in (*scene.text.configuration.files, scene.script):
        try:
            found = path.stat()
            text = path.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if found.st_mode & stat.S_IWOTH:
            yield Finding(Grade.WARNING, f"everybody can change {path}, and so what Kamailio does", f"chmod o-w {path}")
        elif found.st_mode & stat.S_IROTH and (names := _secret_defines(scene, path, text)):
            reason = f"everybody can read {path}, and the password of {', '.join(names)} in it"
            yield Finding(Grade.WARNING, reason, f"chmod o= {path}, and let Kamailio's group read it")


def _secret_defines(scene: Scene, path: Path, text: str) -> list[str]:
    """Name the defines and parameters of a file that hold a password and are in force."""
    if not _SECRET.search(text):
        return []
    found = scene.text.configuration
    names = [
        name for name, define in found.defines.items() if define.position.file == path and _SECRET.search(define.value)
    ]
    return names or [
        each.name for each in found.parameters if each.position.file == path and _SECRET.search(each.value)
    ]


def secrets(scene: Scene) -> Iterator[Finding]:
    """Find passwords in Kamailio's arguments, where every user of the machine reads them (ps)."""
    runs = scene.kamailio()
    for argument in filter(_SECRET.search, runs.arguments):
        name = _NAME.match(argument)
        reason = f"ps shows everybody a password: {name[0] if name else 'one'} in the arguments of {runs.pid}"
        mend = "say it in kamailio.cfg or the environment instead, in a file that others cannot read"
        yield Finding(Grade.WARNING, reason, mend)


def run_folder(scene: Scene) -> Iterator[Finding]:
    """Find a runtime folder that Kamailio's user cannot have for itself, or that another Kamailio has."""
    path, user = Path(scene.settings.run_dir), scene.user
    try:
        found = path.lstat()
    except FileNotFoundError:
        yield from _above(scene, path.parent)
        return
    except PermissionError:
        raise
    except OSError as error:
        raise CannotLook(f"NSQ_RUN_DIR {path}: {error.strerror}") from None
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        yield Finding(Grade.ERROR, f"NSQ_RUN_DIR {path} is no folder, or a symbolic link", "remove it")
    elif found.st_uid != user.uid:
        reason = f"NSQ_RUN_DIR {path} belongs to user {found.st_uid}, and Kamailio runs as {user.name} ({user.uid})"
        yield Finding(Grade.ERROR, reason, "remove it: Kamailio makes it anew")
    elif found.st_mode & (_OTHERS_READ | _OTHERS_WRITE):
        yield Finding(
            Grade.ERROR, f"NSQ_RUN_DIR {path} is open to others (mode {found.st_mode & 0o777:o})", f"chmod 700 {path}"
        )
    else:
        yield from _shared(scene, path)


def _above(scene: Scene, parent: Path) -> Iterator[Finding]:
    """Judge the folder above: Debian's unit makes /run/kamailio as it starts."""
    if not parent.is_dir():
        if not parent.is_relative_to("/run/kamailio"):
            yield Finding(
                Grade.ERROR, f"there is no folder {parent} for NSQ_RUN_DIR", f"make it, for user {scene.user.name}"
            )
        return
    try:
        closed = scene.user.reaches(parent / "x")
    except OSError as error:
        raise CannotLook(f"{parent}: {error.strerror}") from None
    if closed or not scene.user.may(parent, os.W_OK):
        reason = f"user {scene.user.name} cannot make NSQ_RUN_DIR in {closed or parent}"
        yield Finding(Grade.ERROR, reason, f"chown {scene.user.name} {parent}")


def _shared(scene: Scene, folder: Path) -> Iterator[Finding]:
    """Find another Kamailio that holds the folder."""
    pid = kamailio.holder(folder)
    if pid is not None and (scene.running is None or (pid != scene.running.pid and is_running(pid))):
        reason = f"NSQ_RUN_DIR {folder} is in use by the Kamailio with pid {pid}, which has another configuration"
        yield Finding(Grade.ERROR, reason, "#!define another NSQ_RUN_DIR for one of the two, and another SIP port")


def outbox(scene: Scene) -> Iterator[Finding]:
    """Find an outbox that cannot be written, or that others can read."""
    if not scene.settings.outbox:
        raise DoesNotApply("NSQ_OUTBOX is empty")
    path = Path(scene.settings.outbox)
    try:
        if not path.parent.is_dir():
            yield Finding(
                Grade.ERROR, f"there is no folder {path.parent} for NSQ_OUTBOX", f"make it, for user {scene.user.name}"
            )
        elif (closed := scene.user.reaches(path)) or not scene.user.may(path.parent, os.W_OK):
            reason = f"user {scene.user.name} cannot write {closed or path.parent}, the folder of NSQ_OUTBOX"
            yield Finding(Grade.ERROR, reason, f"chown {scene.user.name} {path.parent}")
    except OSError as error:
        raise CannotLook(f"{path}: {error.strerror}") from None


CHECKS: tuple[Check[Scene], ...] = (
    Check(
        "database-file",
        "Kamailio's user can write the SQLite file and its folder, and others cannot read it",
        database_file,
    ),
    Check("network-file", "the SQLite file is on a disk of this machine", network_file),
    Check(
        "configuration-files", "others cannot change the configuration, nor read a password in it", configuration_files
    ),
    Check("secrets", "ps shows no password of Kamailio", secrets),
    Check("run-folder", "NSQ_RUN_DIR is for Kamailio's user alone, and no other Kamailio has it", run_folder),
    Check("outbox", "Kamailio's user can write the outbox", outbox),
)
