# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of `python_exec` and `lock` in a kamailio.cfg, found in its text; and what is said of wrong ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kemi_nsq import NativeNsq
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level
from kemi_nsq.plugin.configuration import Call, calls
from kemi_nsq.plugin.face import Face
from kemi_nsq.quiet import BURST
from kemi_nsq.testing import FakeHost
from tests.support.chain import SHIPPED

MESSAGE = object()
SHIPPED_FILES = sorted((*SHIPPED.glob("*.cfg"), *SHIPPED.glob("examples/*.cfg")))


def written(folder: Path, text: str, name: str = "kamailio.cfg") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def names(path: Path, *defined: str) -> list[str]:
    return [call.name for call in calls(path, defined) if call.function == "python_exec"]


@pytest.mark.parametrize(
    "text",
    [
        'python_exec("a", "b")',
        "python_exec('a');",
        'if (!python_exec( "a" )) { }',
        'xlog("a # b"); python_exec("a");',
        "$var(x) = '//'; python_exec(\"a\");",
        'xlog("say \\"x\\" /*"); python_exec("a");',
        '#!ifdef SET\npython_exec("a")\n#!endif',
        '#!ifndef UNSET\npython_exec("a")\n#!else\npython_exec("b")\n#!endif',
        '!!ifdef UNSET\n#!ifdef SET\npython_exec("b")\n#!endif\n!!else\npython_exec("a")\n!!endif',
        '#!else\n#!endif\npython_exec("a")',
        '#!ifndef SET\n#!define SET 1\npython_exec("a")\n#!endif',
    ],
)
def test_a_call_is_found(tmp_path: Path, text: str) -> None:
    assert names(written(tmp_path, text), "SET") == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        '# python_exec("a")',
        '// python_exec("a")',
        '/* x\npython_exec("a")\n*/',
        "xlog(\"python_exec('a')\");",
        "xlog('python_exec(\"a\")');",
        '#!define CALL python_exec("a")',
        '#!subst "/python_exec(\\"a\\")/x/"',
        '#!ifdef UNSET\npython_exec("a")\n#!endif',
        '#!ifndef SET\n#!define OTHER 1\npython_exec("a")\n#!endif',
        '#!ifdef UNSET\n#!define UNSET 1\npython_exec("a")\n#!endif',
        '#!ifexp 1 == 2\npython_exec("a")\n#!else\npython_exec("b")\n#!endif',
        'python_exec("$hdr(X-Call)", "x")',
        "python_exec(NAME)",
        'my_python_exec("a")',
        "",
    ],
)
def test_what_is_no_call_or_cannot_be_known_is_not_found(tmp_path: Path, text: str) -> None:
    assert names(written(tmp_path, text), "SET") == []


def test_included_files_are_read_each_once_and_a_call_has_its_line(tmp_path: Path) -> None:
    main = written(tmp_path, '\n\npython_exec("a");\ninclude_file "b.cfg"\n#!import_file "nowhere.cfg"\n')
    (tmp_path / "more").mkdir()
    other = written(tmp_path, '#!include_file "more/c.cfg"\npython_exec("b");\ninclude_file "kamailio.cfg"\n', "b.cfg")
    third = written(tmp_path / "more", 'python_exec("c");', "c.cfg")
    assert list(calls(main, ())) == [
        Call("python_exec", "a", main, 3),
        Call("python_exec", "b", other, 2),
        Call("python_exec", "c", third, 1),
    ]


def test_a_name_that_the_kernel_refuses_is_no_file(tmp_path: Path) -> None:
    main = written(tmp_path, f'include_file "{"a" * 5000}"\npython_exec("b")')
    assert names(main) == ["b"]


def test_files_without_end_end(tmp_path: Path) -> None:
    main = written(tmp_path, "".join(f'include_file "{number}.cfg"\n' for number in range(500)))
    assert names(main) == []


def test_what_cannot_be_read_has_no_calls(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    written(tmp_path, 'python_exec("a")' + " " * 5_000_000, "large.cfg")
    (tmp_path / "broken.cfg").write_bytes(b'\xff\0python_exec("a")')
    assert [names(tmp_path / name) for name in ("pipe", "nowhere", "large.cfg", "broken.cfg")] == [[], [], [], ["a"]]
    assert names(tmp_path) == names(Path()) == []


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.name)
def test_the_shipped_configurations_call_what_there_is(path: Path) -> None:
    called = set(names(path, "MOD_presence"))
    has_ours = re.search(r'^include_file "(.*/)?nsq\.cfg"', path.read_text(encoding="utf-8"), re.MULTILINE)
    assert ("notify_unanswered" in called) == (path.name == "nsq.cfg" or has_ours is not None)
    assert {name for name in called if not hasattr(NativeNsq, name)} == set()


# What is said


class Operator(NativeNsq):
    """An operator's own class."""

    def bill_caller(self, _msg: object) -> int:
        return 1


def test_the_start_warns_of_each_name_that_is_none(tmp_path: Path) -> None:
    host = FakeHost()
    text = 'python_exec("nsq_pubish", "t {}");\npython_exec("bill_callr");\npython_exec("bill_caller");'
    host.configuration_file = str(written(tmp_path, text))
    Operator(host)
    assert host.lines == [
        (Level.WARNING, f'{tmp_path}/kamailio.cfg, line {line}: python_exec("{name}"): {said}')
        for line, name, said in (
            (1, "nsq_pubish", "there is no such function; did you mean nsq_publish?"),
            (2, "bill_callr", "there is no such function; did you mean bill_caller?"),
        )
    ]


@pytest.mark.parametrize("name", ["child_init", "presence_lock", "ksr_reply_route", "_consume", "__init__"])
def test_the_start_warns_of_what_is_ours_but_no_function(tmp_path: Path, name: str) -> None:
    host = FakeHost()
    host.configuration_file = str(written(tmp_path, f'python_exec("{name}"); python_exec("notify_unanswered");'))
    Operator(host)
    ((level, line),) = host.lines
    assert level is Level.WARNING
    assert line.endswith(f'"{name}"): Kamailio or Python calls this by itself; it is no function for routes')


def test_child_init_called_by_a_route_does_not_end_it() -> None:
    host = FakeHost()
    native = NativeNsq(host)
    assert native.child_init(0) == 0
    assert native.child_init(MESSAGE) == -1  # type: ignore[arg-type]
    assert host.counters == {Counter.UNKNOWN_FUNCTION: 1}
    assert host.lines[0][1].startswith('python_exec("child_init"): Kamailio or Python calls this by itself')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('lock("presence");\nroute(NSQ_PRESENCE);', True),
        ("lock ( 'presence' );", True),
        ('lock("calls");', False),
        ('lock("presence", "$fd");', False),
        ('unlock("presence"); trylock("presence");', False),
        ('lock "presence"', False),
        ('# lock("presence");', False),
    ],
)
def test_the_start_warns_of_our_lock_in_a_route(tmp_path: Path, text: str, said: bool) -> None:
    host = FakeHost({"NSQ_PUA_LOCK": "presence"})
    host.configuration_file = str(written(tmp_path, text))
    NativeNsq(host)
    assert [level for level, _ in host.lines] == [Level.WARNING] * said
    for _, line in host.lines:
        assert line.startswith(f'{tmp_path}/kamailio.cfg, line 1: lock("presence"): NSQ_PUA_LOCK is this lock, and ')


def test_a_call_by_a_name_that_is_none_is_one_line(tmp_path: Path) -> None:
    host = FakeHost()
    native = NativeNsq(host)
    for name in ("nsq_pubish", "Nsq_Query", "NSQ-ENCODE"):
        assert getattr(native, name)(MESSAGE, "t {}") == getattr(native, name)(MESSAGE) == -1
    meant = ("nsq_publish", "nsq_query", "nsq_encode")
    assert [line.rpartition("mean ")[2] for _, line in host.lines[::2]] == [f"{name}?" for name in meant]
    assert host.lines[0] == (
        Level.ERROR,
        'python_exec("nsq_pubish"): there is no such function; did you mean nsq_publish?',
    )
    for _ in range(100):
        native.nsq_pubish(MESSAGE)  # type: ignore[attr-defined]
    assert len(host.lines) == BURST
    assert host.counters == {Counter.UNKNOWN_FUNCTION: 106}


@pytest.mark.parametrize("name", ["ksr_request_route", "ksr_branch_route", "_x", "__len__", "__array_interface__"])
def test_what_kamailio_and_python_may_look_for_is_absent(name: str) -> None:
    assert not hasattr(NativeNsq(FakeHost()), name)


def test_a_script_has_pythons_own_error() -> None:
    assert "__getattr__" not in vars(Face)
