# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a kamailio.cfg at the start, and of a call by a name that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemi_nsq import NativeNsq
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level
from kemi_nsq.plugin import advice
from kemi_nsq.plugin.face import Face
from kemi_nsq.quiet import BURST
from kemi_nsq.testing import FakeHost
from tests.support.chain import SHIPPED

MESSAGE = object()


def written(folder: Path, text: str, name: str = "kamailio.cfg") -> Path:
    """Write a configuration with a text in a route."""
    (folder / name).write_text(f"request_route {{ {text}\n}}\n", encoding="utf-8")
    return folder / name


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


# What is wrong with the text


def start(path: Path, **defines: str) -> list[str]:
    """Start with a configuration, and return the warnings."""
    host = FakeHost(defines)
    host.configuration_file = str(path)
    NativeNsq(host)
    assert {level for level, _ in host.lines} <= {Level.WARNING}
    return [line for _, line in host.lines]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('modparam("presence", "publ_cache", 1)', "publ_cache is 1"),
        ('modparam("presence", "subs_db_mode", 2)', "subs_db_mode is 2"),
        ('modparam("presence", "notifier_processes", 1)', "notifier_processes is 1"),
        ('modparam("presence", "startup_mode", 0)', "startup_mode is 0"),
        ("route[X] { handle_subscribe(); }", "handle_subscribe() without the lock"),
        ("#!define NSQ_OWN_LOCK_SET_SIZE", "NSQ_OWN_LOCK_SET_SIZE is defined after nsq.cfg was included"),
    ],
)
def test_the_start_says_what_breaks_presence_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "kamailio.cfg"
    path.write_text(f'include_file "{SHIPPED}/kamailio.cfg"\n{line}\n')
    (found,) = start(path)
    assert said in found
    assert f"{path}, line 2" in found


def test_stock_presence_is_said_to_store_rows_and_show_none(tmp_path: Path) -> None:
    path = tmp_path / "kamailio.cfg"
    path.write_text('loadmodule "presence.so"\n')
    assert "rows are stored and counted, and no watcher is shown them" in start(path)[0]


@pytest.mark.parametrize("name", ["kamailio.cfg", "kemi.cfg"])
def test_nothing_is_said_of_what_is_shipped(name: str) -> None:
    assert start(SHIPPED / name) == []


def test_a_large_configuration_is_said_not_to_be_checked(tmp_path: Path) -> None:
    """Of a part nothing could be said: what is set last holds."""
    path = tmp_path / "kamailio.cfg"
    path.write_text('loadmodule "presence.so"\n# ' + "x" * advice.MOST_BYTES)
    host = FakeHost()
    host.configuration_file = str(path)
    NativeNsq(host)
    assert host.lines == [(Level.INFO, f"{path} is too large to be checked at a start: see kemi-nsq doctor")]


def test_a_fault_in_a_check_does_not_keep_kamailio_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(advice, "read", fail)
    assert start(written(tmp_path, "")) == [
        f"{tmp_path}/kamailio.cfg was not checked: RuntimeError: a bug; please report this"
    ]
