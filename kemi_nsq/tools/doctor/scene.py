# SPDX-License-Identifier: GPL-2.0-or-later
"""What the checks of `kemi-nsq doctor` look at: a configuration, who runs it, and the settings that come of it."""

from __future__ import annotations

import ast
import grp
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kemi_nsq.configuration import commandline
from kemi_nsq.configuration.finding import CannotLook, DoesNotApply, Text
from kemi_nsq.configuration.reader import read
from kemi_nsq.databaseurl import kamailio_url
from kemi_nsq.errors import SettingsError, UsageError
from kemi_nsq.loading import host_name, load, nearest
from kemi_nsq.plugin.face import Face
from kemi_nsq.plugin.functions import NOT_FOR_ROUTES, no_function
from kemi_nsq.plugin.native import OF_NSQ_CFG, NativeNsq
from kemi_nsq.settings import CONFIGURATION_ONLY, PREFIX, Settings, names
from kemi_nsq.tools.doctor import kamailio
from kemi_nsq.tools.doctor.kamailio import Running
from kemi_nsq.tools.doctor.servers import Servers

#: Where Debian's unit starts Kamailio.
_SERVICE_FOLDER = Path("/")
_SERVICE_USER = "kamailio"
#: Debian's place of the script; nsq.cfg has it as its default.
_SCRIPT = "/etc/kamailio/nsq.py"
NONE_RUNS = "no Kamailio runs with this configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The user that Kamailio's processes run as."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """Return whether it may do with a path what `wanted` (os.R_OK, os.W_OK, os.X_OK) says, by its mode bits.

        Raises:
            OSError: the path is not there, or we may not look.
        """
        found = path.stat()
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return self.uid == 0 or bool(found.st_mode >> shift & wanted == wanted)

    def reaches(self, path: Path) -> Path | None:
        """Return the folder on the way to a path that keeps this user out; None if none does.

        Raises:
            OSError: a folder is not there, or we may not look.
        """
        return next((each for each in reversed(path.parents) if not self.may(each, os.X_OK)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What checks look at.

    Attributes:
        text: the configuration and its settings.
        given: defines of the command line.
        running: the Kamailio that runs with it, None where there is none.
        user: whom its processes run as.
        environment: of that Kamailio, as far as we know.
        servers: asks those of NSQ.
        perhaps: main processes of Kamailio of which nobody can say whether they run with it; none where one does.
    """

    text: Text
    given: Mapping[str, str]
    running: Running | None
    user: User
    environment: Mapping[str, str]
    servers: Servers = field(default_factory=Servers)
    perhaps: Sequence[int] = ()

    @property
    def file(self) -> Path:
        """The configuration."""
        return self.text.configuration.file

    @property
    def settings(self) -> Settings:
        """The settings that hold; raises CannotLook where they are wrong."""
        return self.text.valid

    @property
    def doubt(self) -> str:
        """Why nobody can say whether a Kamailio runs with the configuration; '' where that is known."""
        pids = " and ".join(map(str, self.perhaps))
        why = "its -f is relative, and where it was started cannot be seen; ask as root"
        return f"the Kamailio with pid {pids} may be the one of this configuration: {why}" if pids else ""

    @property
    def state(self) -> str:
        """What is to be said of Kamailio; '' where one runs with the configuration."""
        if self.perhaps:
            return "whether Kamailio runs with this configuration is not known"
        return "" if self.running else NONE_RUNS

    def kamailio(self) -> Running:
        """Return the Kamailio that runs with the configuration.

        Raises:
            DoesNotApply: none does.
            CannotLook: nobody knows.
        """
        if self.running is not None:
            return self.running
        if self.perhaps:
            raise CannotLook(self.doubt)
        raise DoesNotApply(NONE_RUNS)

    @property
    def database_file(self) -> Path | None:
        """The SQLite file of NSQ_DB_URL; None where it names a server, or nothing."""
        url = self.settings.db_url
        if url is None or not url.startswith("sqlite"):
            return None
        known = kamailio_url(url)
        return Path(known.database if known else "/" + url.partition("://")[2].partition("?")[0].lstrip("/"))

    @property
    def script(self) -> Path:
        """The Python file that Kamailio loads."""
        return Path(self.text.configuration.value("NSQ_SCRIPT") or _SCRIPT)


def scene(file: Path, given: Mapping[str, str], user: str = "") -> Scene:
    """Look at a configuration, and who runs it.

    Args:
        file: the configuration.
        given: defines of Kamailio's command line; those of the Kamailio that runs count where it says none.
        user: whom Kamailio runs as; found out where left out.

    Raises:
        UsageError: there is no such file or user, or it cannot be read.
    """
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    file = file.absolute()
    release = kamailio.release()
    running, perhaps = _runs(file, given, release)
    text, environment, defined = _text(file, given, running, release)
    named = text.configuration.text("", "user", text.configuration.text("", "uid", ""))
    who = _user(user or named, next(iter(perhaps), running), file)
    pids = [each.pid for each in perhaps]
    return Scene(text=text, given=defined, running=running, user=who, environment=environment, perhaps=pids)


def _runs(file: Path, given: Mapping[str, str], release: tuple[int, ...]) -> tuple[Running | None, list[Running]]:
    """Find the Kamailio that runs with a configuration, else those of which nobody can say.

    Where the process does not tell, the runtime folder does: its lock has the process that holds it.
    """
    if known := kamailio.running(file):
        return known, []
    unknown = []
    for each in kamailio.perhaps(file):
        settings = _text(file, given, each, release)[0].settings
        try:
            holder = kamailio.holder(Path(settings.run_dir)) if settings else None
        except (CannotLook, PermissionError):
            unknown.append(each)
            continue
        if holder == each.pid:
            return each, []
        if settings is None or each.environment is None:  # it may have another runtime folder
            unknown.append(each)
    return None, unknown


def _text(
    file: Path, given: Mapping[str, str], running: Running | None, release: tuple[int, ...]
) -> tuple[Text, Mapping[str, str], Mapping[str, str]]:
    """Return a configuration as a Kamailio has it, with that Kamailio's environment and the defines given to it."""
    environment = dict((running and running.environment) or os.environ)
    defined = {**(commandline.given(running.arguments) if running else {}), **given}
    before = kamailio.own_defines(release) | defined
    configuration = read(file, before, environment=environment, folder=_SERVICE_FOLDER)
    settings, problems = _settings(environment, configuration.settings(PREFIX))
    text = Text(
        configuration=configuration,
        settings=settings,
        problems=problems,
        release=release,
        wrong_function=_judge(Path(configuration.value("NSQ_SCRIPT") or _SCRIPT)),
    )
    return text, environment, defined


def _settings(environment: Mapping[str, str], defines: Mapping[str, str]) -> tuple[Settings | None, list[str]]:
    """Return the settings as Kamailio would have them, and what is wrong with them. Unknown names change no others."""
    theirs = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    given = {**theirs, **defines}
    try:
        return load(given, host_name=host_name()), []
    except SettingsError as error:
        problems = error.problems
    try:
        known = {*names(), *CONFIGURATION_ONLY}
        return load({name: value for name, value in given.items() if name in known}, host_name=host_name()), problems
    except SettingsError:
        return None, problems


def _judge(script: Path) -> Callable[[str], str]:
    """Return what says what is wrong with the name of a function: of ours, or of the operator's script, by its text."""
    ours = [name for name in dir(NativeNsq) if name[0] != "_" and not hasattr(Face, name)]
    try:
        tree = ast.parse(script.read_bytes())
        methods = [part for each in ast.walk(tree) if isinstance(each, ast.ClassDef) for part in each.body]
        ours += [part.name for part in methods if isinstance(part, ast.FunctionDef) and part.name[0] != "_"]
    except (OSError, ValueError, SyntaxError, RecursionError):
        pass

    def wrong(name: str) -> str:
        if name in (*ours, *OF_NSQ_CFG):
            return ""
        return NOT_FOR_ROUTES if hasattr(NativeNsq, name) else no_function(nearest(name.lower(), ours))

    return wrong


def _user(name: str, running: Running | None, file: Path) -> User:
    try:
        if name:
            found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        elif running:
            found = pwd.getpwuid(running.uid)
        elif file == kamailio.SYSTEM_FILE:
            found = pwd.getpwnam(_SERVICE_USER)
        else:
            found = pwd.getpwuid(os.geteuid())
    except KeyError:
        raise UsageError(f"there is no user {name or _SERVICE_USER}; see --user, or user= in kamailio.cfg") from None
    groups = {group.gr_gid for group in grp.getgrall() if found.pw_name in group.gr_mem}
    return User(name=found.pw_name, uid=found.pw_uid, gid=found.pw_gid, groups=frozenset(groups | {found.pw_gid}))
