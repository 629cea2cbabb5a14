# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kemi-nsq reload` takes over of an operator's script, and what it leaves when that cannot be loaded."""

from __future__ import annotations

import _thread
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kemi_nsq import KemiNsq
from kemi_nsq.errors import ScriptFailed, UsageError
from kemi_nsq.host import Level, Suspended
from kemi_nsq.plugin.face import Face
from kemi_nsq.testing import FakeHost
from tests.support.deliveries import event
from tests.support.until import until

NAME = "operator_of_test_script"
SCRIPT = """\
import {name}_given as given
import {name}_helper as helper
from kemi_nsq import KemiNsq, event_route

class Kamailio(KemiNsq):
    def child_init(self, rank):
        given.ranks.append(rank)
        return 0

    @event_route("nsq:consumer-event-{route}")
    def handle(self, event):
        given.seen.append(helper.WORD)

    def goes_on(self, *_):
        given.seen.append("continued by " + helper.WORD)
        return 1

def mod_init():
    given.made.append(Kamailio(given.host))
    return given.made[-1]
"""


class Given(ModuleType):
    """What the script has from the test."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(f"{NAME}_given")
        self.host = host
        self.made: list[KemiNsq] = []
        self.ranks: list[int] = []
        self.seen: list[str] = []


class Folder:
    """The folder of the script, and the host that it runs in."""

    def __init__(self, path: Path, given: Given) -> None:
        self.path = path
        self.given = given
        self.script, self.helper = path / f"{NAME}.py", path / f"{NAME}_helper.py"

    def write(self, *, route: str = "one", word: str = "first") -> None:
        """Write both files; the time of their change does not tell one version from the other."""
        self.script.write_text(SCRIPT.format(name=NAME, route=route))
        self.helper.write_text(f"WORD = {word!r}\n")
        for file in (self.script, self.helper):
            os.utime(file, (1_700_000_000, 1_700_000_000))

    def begin(self) -> KemiNsq:
        """Have the script make its object, imported and called by nobody else of Python's, as Kamailio does."""
        _thread.start_new_thread(importlib.import_module, (NAME,))
        until(lambda: NAME in sys.modules, what="the import to begin")
        _thread.start_new_thread(importlib.import_module(NAME).mod_init, ())  # this waits for its end
        return until(lambda: self.given.made[:1], what="the script's object")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    given = Given(FakeHost())
    sys.modules[given.__name__] = given
    sys.path.insert(0, str(tmp_path))
    yield Folder(tmp_path, given)
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        del sys.modules[name]


def handle(face: Face, route: str) -> bool:
    """Hand an event to the handler of a route, if there is one."""
    handler = face._script.handlers.get(f"nsq:consumer-event-{route}")
    if handler is not None:
        handler(event("{}"))
    return handler is not None


def test_handlers_of_the_new_version_are_called(folder: Folder) -> None:
    """Also where only a file that the script imports has changed, within a second, and not in length."""
    folder.write()
    face = folder.begin()
    assert handle(face, "one")
    folder.write(word="other")
    assert handle(face, "one"), "nothing is taken unasked"
    said = face._script.reload({})
    assert handle(face, "one")
    assert folder.given.seen == ["first", "first", "other"]
    assert isinstance(said, dict)
    assert (said["file"], said["handlers"]) == (str(folder.script), ["nsq:consumer-event-one"])


def test_routes_come_and_go(folder: Folder) -> None:
    folder.write()
    face = folder.begin()
    folder.write(route="two")
    face._script.reload({})
    assert (handle(face, "one"), handle(face, "two")) == (False, True)


def test_the_new_object_shares_what_was_wired(folder: Folder) -> None:
    """There is one set of connections and settings, and one process: it hears of its rank as at its start."""
    folder.write()
    first = folder.begin()
    first._script.reload({})
    second = folder.given.made[1]
    assert (second is not first, second._parts is first._parts, second._script.face is second) == (True, True, True)
    assert folder.given.ranks == [-2]


def test_a_transaction_goes_on_in_the_new_version(folder: Folder) -> None:
    folder.write()
    face = folder.begin()
    folder.write(word="other")
    face._script.reload({})
    folder.given.host.continued.append((Suspended(index=1, label=1, route="goes_on"), {}))
    assert face.ksr_nsq_continued() == 1
    assert folder.given.seen == ["continued by other"]


def test_a_module_in_a_folder_without_init_is_new_as_well(folder: Folder) -> None:
    """Its package is none of a file, and holds the module that was imported first."""
    package = folder.path / f"{NAME}_package"
    package.mkdir()
    folder.write()
    from_package = folder.script.read_text().replace(f"import {NAME}_helper as", f"from {NAME}_package import word as")
    folder.script.write_text(from_package)
    (package / "word.py").write_text("WORD = 'first'\n")
    face = folder.begin()
    assert handle(face, "one")
    (package / "word.py").write_text("WORD = 'other'\n")
    face._script.reload({})
    assert handle(face, "one")
    assert folder.given.seen == ["first", "other"]


@pytest.mark.parametrize(
    "made",
    [
        "made_at_import = mod_init()\ndef mod_init():\n    return made_at_import\n",
        "import functools\ndef plain(function):\n    @functools.wraps(function)\n"
        "    def inner():\n        return function()\n    return inner\nmod_init = plain(mod_init)\n",
    ],
    ids=["at import", "decorated"],
)
def test_however_the_object_is_made(folder: Folder, made: str) -> None:
    folder.write()
    folder.script.write_text(folder.script.read_text() + made)
    face = folder.begin()
    said = face._script.describe()
    assert (said["file"], handle(face, "one")) == (str(folder.script), True)
    folder.write(word="other")
    folder.script.write_text(folder.script.read_text() + made)
    face._script.reload({})
    assert handle(face, "one")
    assert folder.given.seen == ["first", "other"]


def test_versions_differ_by_their_text(folder: Folder) -> None:
    folder.write()
    face = folder.begin()
    versions = [face._script.describe()["version"]]
    for word in ("other", "first"):
        folder.write(word=word)
        face._script.reload({})
        versions.append(face._script.describe()["version"])
    assert versions[0] == versions[2] != versions[1]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("def mod_init(:\n", "SyntaxError: invalid syntax"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("x = 1\n", "has no attribute 'mod_init'"),
        ("def mod_init(): return None\n", "mod_init() returned NoneType, which is no KemiNsq"),
        ("def mod_init(): return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("from kemi_nsq import KemiNsq\nclass K(KemiNsq):\n def child_init(self, r): return -1\n"
         "def mod_init(): return K()\n", "child_init() returned a negative number"),
        ("from kemi_nsq import KemiNsq\nclass Proxy:\n def __getattr__(self, name): raise RuntimeError('no context')\n"
         "proxy = Proxy()\nclass K(KemiNsq): pass\ndef mod_init(): return K()\n", "RuntimeError: no context"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_changes_nothing(folder: Folder, broken: str, said: str) -> None:
    """One line says what is wrong and where; the old version goes on, and a later one is taken."""
    folder.write()
    face = folder.begin()
    module = sys.modules[NAME]
    folder.script.write_text(broken)
    with pytest.raises(ScriptFailed) as failed:
        face._script.reload({})
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)
    assert sys.modules[NAME] is module
    assert handle(face, "one")
    level, line = folder.given.host.lines[-1]
    assert (level, said in line) == (Level.ERROR, True)
    folder.write(word="other")
    face._script.reload({})
    assert handle(face, "one")
    assert folder.given.seen == ["first", "other"]


def test_the_script_that_is_shipped_has_nothing_to_reload() -> None:
    class Shipped(KemiNsq):
        __module__ = "kemi_nsq.plugin.kemi"

    face = Shipped(FakeHost())
    face._script._module = "nsq"
    with pytest.raises(UsageError, match="NSQ_SCRIPT"):
        face._script.reload({})


def test_a_script_that_has_gone_is_named(folder: Folder) -> None:
    folder.write()
    face = folder.begin()
    folder.script.unlink()
    with pytest.raises(ScriptFailed, match=rf"^{folder.script} is not there any more; its event routes stay"):
        face._script.reload({})
    assert handle(face, "one")


def test_an_error_names_the_script_s_own_line(folder: Folder) -> None:
    """Not that of the library, or of ours, in which it came up."""
    folder.write()
    face = folder.begin()
    folder.script.write_text("import json\njson.loads('{')\n")
    with pytest.raises(ScriptFailed, match=rf"JSONDecodeError: .*\({folder.script}:2\)"):
        face._script.reload({})
