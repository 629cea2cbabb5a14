# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's Python script, and how a consumer process takes a new version of it: `kemi-nsq reload`.

Kamailio's own `app_python.reload` only raises a number, which each process compares when it next calls Python: a
consumer's call never ends. So the process itself loads the script anew, between two events: what is in flight stays in
flight, and the connections to nsqd, the settings and what was wired stay as they are.

Only consumers do. A SIP worker goes on with what it has: its methods may be in the midst of a request.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.routes import Handler, handlers_of
from kemi_nsq.errors import ScriptFailed, UsageError
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import JsonObject, JsonValue

if TYPE_CHECKING:
    from kemi_nsq.plugin.face import Face

#: The file that makes this package known, which lies beside the script, and the package. Neither is the operator's.
_OURS = ("nsq", "kemi_nsq")
_INSTALLED = frozenset(("site-packages", "dist-packages"))
#: Where no compiled file is: one that was written in the same second as a script of the same size would be believed.
_NO_CACHE = "/dev/null"
_VERSION_LENGTH = 8
#: What app_python3 calls of the script (app_python3_mod.c, `mod_init_func`).
_MOD_INIT = "mod_init"


class Script:
    """The script, and the object of it that handles events now.

    Args:
        face: the object that Kamailio calls; its class is the script's, or ours where there is no script.
        host: the SIP server.
        clock: tells the time.

    Attributes:
        face: the object whose handlers are called.
        handlers: those, by route name. It stays the same mapping: whoever runs routes holds it.
    """

    def __init__(self, face: Face, host: Host, clock: Clock = SYSTEM) -> None:
        self._host = host
        self._clock = clock
        self.face = face
        self.handlers: dict[str, Handler] = handlers(face)
        self._module, self._function = _called_by_kamailio()
        self._taken, self._version = clock.wall(), _version(self._module)

    def describe(self) -> dict[str, JsonValue]:
        """Return which script it is, when it was loaded, in epoch seconds, and the names of its event routes.

        The version tells different texts apart, of the script and of what it imports from its folder.
        """
        return {
            "file": str(_file(sys.modules.get(self._module)) or ""),
            "version": self._version,
            "loaded": self._taken,
            "handlers": [*sorted(self.handlers)],
        }

    def reload(self, _arguments: JsonObject) -> JsonValue:
        """Load it anew and take over its handlers; answer what `describe` does.

        Raises:
            UsageError: there is none.
            ScriptFailed: it cannot be loaded.
        """
        from kemi_nsq.plugin.face import Face

        script = _file(sys.modules.get(self._module))
        if script is None or not self._is_operators():
            raise UsageError("there are no Python handlers to reload: NSQ_SCRIPT is the script that kemi-nsq ships")
        try:
            with Face.successor_of(self.face), _loaded_anew(self._module) as module:
                face = self._make(module)
                found = handlers(face)
        except BaseException as error:  # the operator's code
            where = _where(error, script)
            self._host.log(Level.ERROR, f"the script stays as it is: {where}")
            raise ScriptFailed(f"{where}; its event routes stay as they are") from error
        self.face = face
        self.handlers.clear()
        self.handlers.update(found)
        self._taken, self._version = self._clock.wall(), _version(self._module)
        self._host.log(Level.WARNING, f"{script} was loaded anew, with {', '.join(sorted(found)) or 'no event route'}")
        return self.describe()

    def _make(self, module: ModuleType) -> Face:
        """Have the script make its object, as Kamailio does at its start and in each process."""
        from kemi_nsq.plugin.face import Face

        face = getattr(module, self._function)()
        if not isinstance(face, Face):
            raise TypeError(f"{self._function}() returned {type(face).__name__}, which is no KemiNsq")
        if face.child_init(self._host.rank()) < 0:
            raise ValueError("child_init() returned a negative number")
        return face

    def _is_operators(self) -> bool:
        return self._module.partition(".")[0] not in _OURS


def handlers(face: Face) -> dict[str, Handler]:
    """Collect the event handlers of an object's class and of the module that defines it."""
    module = sys.modules.get(type(face).__module__, ModuleType("none"))
    # Looked up in the class first: reading a property would run it.
    methods = {name: getattr(face, name) for name in dir(type(face)) if callable(getattr(type(face), name, None))}
    return handlers_of(vars(module)) | handlers_of(methods)


def _called_by_kamailio() -> tuple[str, str]:
    """Return the script, and in it the function that makes its object: those of the outermost of all calls.

    That call may be the import of the script, which makes its object then and has `mod_init` return it; or that of a
    decorator, whose inner function is none of its module.
    """
    for frame in reversed([*_calls(sys._getframe())]):
        name, function = str(frame.f_globals.get("__name__", "")), frame.f_code.co_name
        if name.partition(".")[0] == "importlib":
            continue
        if function == "<module>":
            return name, _MOD_INIT
        if callable(frame.f_globals.get(function)):
            return name, function
    return "", _MOD_INIT


def _calls(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


@contextmanager
def _loaded_anew(name: str) -> Iterator[ModuleType]:
    """Load a module, and what it imports from its own folder, from their files; if the block fails, undo it."""
    before = _of_folder(_file(sys.modules[name]))
    settings = sys.pycache_prefix, sys.dont_write_bytecode
    for each in before:
        del sys.modules[each]
    sys.pycache_prefix, sys.dont_write_bytecode = _NO_CACHE, True
    importlib.invalidate_caches()
    try:
        yield importlib.import_module(name)
    except BaseException:
        for each in _of_folder(_file(before[name])):
            del sys.modules[each]
        sys.modules.update(before)
        raise
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = settings


def _of_folder(script: Path | None) -> dict[str, ModuleType]:
    """Return the modules that lie in a script's folder, the script itself among them; not what is installed there."""
    found = {}
    for name, module in [*sys.modules.items()]:
        places = _places(module)
        if not places or script is None or name.partition(".")[0] in _OURS:
            continue
        if all(_is_own(place, script.parent) for place in places):
            found[name] = module
    return found


def _is_own(place: Path, folder: Path) -> bool:
    """Whether a file lies in the script's folder, and was not installed there."""
    return place.is_relative_to(folder) and not _INSTALLED & {*place.relative_to(folder).parts}


def _places(module: ModuleType) -> list[Path]:
    """Return the file of a module, or the folders of a package without `__init__.py`.

    Such a package keeps the modules in it as attributes: if it stayed, `from package import module` would find the old.
    """
    file = _file(module)
    if file is not None:
        return [file]
    return [Path(each) for each in getattr(module, "__path__", ()) if isinstance(each, str)]


def _version(name: str) -> str:
    """Return some digits that stand for the text of a module and of those from its folder."""
    digest = hashlib.sha256()
    for _, module in sorted(_of_folder(_file(sys.modules.get(name))).items()):
        with suppress(OSError):
            digest.update((_file(module) or Path()).read_bytes())
    return digest.hexdigest()[:_VERSION_LENGTH]


def _file(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _where(error: BaseException, script: Path) -> str:
    """Say in one line what went wrong, and where in the script or in what it imports from its folder."""
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{said} ({error.filename}:{error.lineno})"
    if not script.exists():
        return f"{script} is not there any more"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename), script.parent)
    ]
    return f"{said} ({frames[-1].filename}:{frames[-1].lineno})" if frames else f"{said} ({script})"
