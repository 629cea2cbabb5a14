# SPDX-License-Identifier: GPL-2.0-or-later
"""kamailio.cfg as a text: what the preprocessor makes of it, and what of it is found."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given as invented
from hypothesis import strategies as st

from kemi_nsq import NativeNsq
from kemi_nsq.configuration import commandline
from kemi_nsq.configuration.expression import holds
from kemi_nsq.configuration.model import Configuration, Parameter, Position
from kemi_nsq.configuration.reader import read
from tests.support.chain import SHIPPED
from tests.support.stock import stock_text

SHIPPED_FILES = sorted((*SHIPPED.glob("*.cfg"), *SHIPPED.glob("examples/*.cfg")))


def of(folder: Path, text: str, *defined: str, **environment: str) -> Configuration:
    """Write a configuration and read it."""
    path = folder / "kamailio.cfg"
    path.write_text(text, encoding="utf-8")
    return read(path, dict.fromkeys(defined, ""), environment=environment)


def names(folder: Path, text: str, *defined: str) -> list[str | None]:
    """Return the functions that a route calls by `python_exec`."""
    found = of(folder, f"request_route {{ {text}\n}}\n", *defined)
    return [call.arguments[0] for call in found.called("python_exec")]


# Calls


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
        '#!ifndef UNSET\n#!define UNSET 1\npython_exec("a")\n#!endif',
        '#!ifexp 1 == 2\npython_exec("b")\n#!else\npython_exec("a")\n#!endif',
        '#!ifdef UNSET\n/*\n#!endif\npython_exec("a") # */',
        '#!define CALL "a"\npython_exec(CALL)',
        'python_exec("" "a")',
        '$var(x) = $(hdr(X){s.substr,0,1}) + "a"; python_exec("a");',
    ],
)
def test_a_call_is_found(tmp_path: Path, text: str) -> None:
    assert names(tmp_path, text, "SET") == ["a"]


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
        '#!ifexp what is this?\npython_exec("a")\n#!else\npython_exec("b")\n#!endif',
        'my_python_exec("a")',
        "",
    ],
)
def test_what_is_no_call_or_cannot_be_known_is_not_found(tmp_path: Path, text: str) -> None:
    assert names(tmp_path, text, "SET") == []


@pytest.mark.parametrize("text", ['python_exec("$hdr(X-Call)", "x")', "python_exec(NAME + 1)", "python_exec($var(x))"])
def test_what_a_route_makes_at_run_time_has_no_name(tmp_path: Path, text: str) -> None:
    assert names(tmp_path, text) == [None]


def test_a_call_has_its_route_and_its_place(tmp_path: Path) -> None:
    text = '\nroute[A] {\n if (x("1") && y(z("2", $ru), "3")) { exit; }\n}\nevent_route[nsq:b-c_d] { w(); }\n'
    found = of(tmp_path, text)
    assert [(call.function, call.arguments, call.route, call.position.line) for call in found.calls] == [
        ("x", ("1",), "route[A]", 3),
        ("y", (None, "3"), "route[A]", 3),
        ("z", ("2", None), "route[A]", 3),
        ("w", (), "event_route[nsq:b-c_d]", 5),
    ]
    assert list(found.event_routes()) == ["nsq:b-c_d"]


# Defines


def test_what_is_defined_first_holds_but_for_redefine(tmp_path: Path) -> None:
    text = """
#!define A 1
#!trydef A 2
#!define B one
#!redefine B two
#!define C
#!define D "x" \\
  "y"
#!def E B
#!define A 3
#!undef C
"""
    found = of(tmp_path, text, "GIVEN")
    assert {name: found.value(name) for name in found.defines} == {
        "GIVEN": "",
        "A": "1",
        "B": "two",
        "D": 'x"   "y',
        "E": "two",
    }
    ((name, first, second),) = found.doubles
    assert (name, first.line, second.line) == ("A", 2, 10)


def test_the_command_line_and_the_environment_define(tmp_path: Path) -> None:
    text = "#!defenv A=X\n#!defenvs B=X\n#!trydefenv X\n#!trydefenvs NONE\n#!defenv MISSING\n"
    found = of(tmp_path, text, X="1")
    assert {name: define.value for name, define in found.defines.items()} == {"A": "1", "B": '"1"', "X": "1"}
    assert [each.text for each in found.oddities] == ["#!defenv MISSING: the environment has no such variable"]
    arguments = ["kamailio", "-DD", "-f", "/x.cfg", "-A", "A=1", "-AB", "-m", "-A", "-A", 'C="x=y"']
    assert commandline.given(arguments) == {"A": "1", "B": "", "C": '"x=y"'}
    assert list(commandline.values(arguments, "f")) == ["/x.cfg"]


def test_a_define_may_be_an_expression(tmp_path: Path) -> None:
    found = of(tmp_path, "#!define A 2\n#!defexp B A * 5\n#!defexps C B - 0.5\n#!defexp D A ~ 1\n")
    assert [found.defines[name].value for name in "BCD"] == ["10", '"9.5"', ""]
    assert "its value is not known" in found.oddities[0].text


def test_calls_in_calls_without_end_end(tmp_path: Path) -> None:
    found = of(tmp_path, f"request_route {{ {'a(' * 5000} }}\nroute[B] {{ b(); }}\n")
    assert len(found.calls) == 50 + 1
    assert found.calls[-1].route == "route[B]"


def test_a_define_stands_for_its_value_in_a_parameter(tmp_path: Path) -> None:
    text = """
#!define URL "sqlite:////x.db"
#!define AGAIN URL
#!substdef "!HOST!192.0.2.1!g"
listen=udp:HOST:5060
loadmodule "/usr/lib/presence.so"
modparam("presence", "db_url", AGAIN)
modparam("presence|presence_xml", "x", "on HOST")
pv_buffer_size = 70000; children=4
cfgengine "python"
"""
    found = of(tmp_path, text)
    assert found.text("presence", "db_url", "") == "sqlite:////x.db"
    assert found.text("presence_xml", "x", "") == "on 192.0.2.1"
    assert found.text("", "cfgengine", "") == "python"
    assert found.number("", "pv_buffer_size", 0) == 70000
    assert found.text("", "listen", "") == "udp:192.0.2.1:5060"
    assert found.loads("presence")
    assert "MOD_presence" in found.defines


def test_what_is_set_last_holds(tmp_path: Path) -> None:
    found = of(tmp_path, 'modparam("a", "b", 1)\nmodparam("a", "b", "0x10")\nmodparam("a", "c", "x")')
    assert found.parameter("a", "b") == Parameter("a", "b", "0x10", Position(tmp_path / "kamailio.cfg", 2))
    assert [found.number("a", name, 7) for name in "bcd"] == [16, None, 7]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!ifdeff X", "is no directive"),
        ("#!defne X 1", "is no directive"),
        ("#!endif", "#!endif without #!ifdef"),
        ("#!else", "#!else without #!ifdef"),
        ("#!ifdef X", "1 more #!ifdef than #!endif"),
        ('include_file "nowhere.cfg"', "there is no such file"),
        ("include_file 'nowhere.cfg'", "in double quotes"),
        ("#!ifexp X ~ 1\n#!endif", "not understood"),
        ("#!define", "names nothing"),
    ],
)
def test_what_is_odd_is_told(tmp_path: Path, text: str, said: str) -> None:
    ((told, position),) = of(tmp_path, text + "\n").oddities
    assert said in told
    assert position.file == tmp_path / "kamailio.cfg"


@pytest.mark.parametrize(
    "text", ["#!KAMAILIO\n", "#!/usr/sbin/kamailio\n", 'import_file "nowhere.cfg"', "#! hello\n", ""]
)
def test_what_is_not_odd_is_not_told(tmp_path: Path, text: str) -> None:
    assert of(tmp_path, f"{text}\n").oddities == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("0", False),
        ("SET", True),
        ("UNSET", False),
        ("!UNSET && SET", True),
        ("RELEASE >= 5006000", True),
        ("RELEASE < 5006000 || RELEASE == 5006003", True),
        ('NAME == "x y"', True),
        ("NAME != 'x y'", False),
        ("2 * (1 + 2) - 6", False),
        ("-1 + 1", False),
        ('"a" == 1', False),
        ("(1", None),
        ("1 1", None),
        ("1 / 0", None),
        ("", None),
        ("a ~ b", None),
        ("(" * 5000, None),
    ],
)
def test_an_expression_holds_or_not(text: str, value: bool | None) -> None:
    values: dict[str, float | str] = {"SET": 1.0, "RELEASE": "5006003", "NAME": "x y"}
    assert holds(text, lambda name: values.get(name, 0.0)) is value


# Files


def test_included_files_are_read_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "b.cfg").write_text('#!include_file "more/c.cfg"\n#!define B\n')
    (tmp_path / "more/c.cfg").write_text('#!define C\nmodparam("a", "b", 1)\n')
    found = of(
        tmp_path, '#!define A\ninclude_file "b.cfg"\n#!import_file "nowhere.cfg"\n#!ifdef C\n#!define D\n#!endif\n'
    )
    assert list(found.defines) == ["A", "C", "B", "D"]
    assert found.files == [tmp_path / "kamailio.cfg", tmp_path / "b.cfg", tmp_path / "more/c.cfg"]
    assert [each.defined for each in found.includes] == [{"A"}, {"A"}, {"A", "C", "B"}]
    assert str(found.parameters[0].position) == f"{tmp_path}/more/c.cfg, line 2"


def test_a_name_without_a_folder_is_looked_for_where_kamailio_works_first(tmp_path: Path) -> None:
    works = tmp_path / "works"
    works.mkdir()
    (works / "b.cfg").write_text("#!define THERE\n")
    (tmp_path / "b.cfg").write_text("#!define BESIDE\n")
    (tmp_path / "kamailio.cfg").write_text('include_file "b.cfg"\n')
    assert "THERE" in read(tmp_path / "kamailio.cfg", folder=works).defines
    assert "BESIDE" in read(tmp_path / "kamailio.cfg", folder=tmp_path / "more").defines


def test_files_without_end_end(tmp_path: Path) -> None:
    found = of(tmp_path, 'include_file "kamailio.cfg"\n' * 3)
    assert len(found.files) <= 100
    assert any("levels of includes" in each.text for each in found.oddities) or not found.whole


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text('python_exec("a")' + " " * 5_000_000)
    (tmp_path / "broken").write_bytes(b'\xff\0request_route { python_exec("a"); }')
    found = {name: read(tmp_path / name) for name in ("pipe", "nowhere", "large", "broken")}
    assert [len(each.calls) for each in found.values()] == [0, 0, 0, 1]
    assert [each.whole for each in found.values()] == [True, True, False, True]
    assert read(Path()).calls == []
    assert of(tmp_path, f'include_file "{"a" * 5000}"\n#!define B\n').value("B") == ""


@invented(st.text(alphabet="#!/*\"'(){}[]=,;$\\\n ab", max_size=200))
def test_no_text_is_too_odd(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "odd.cfg").write_text(text)
    read(folder / "odd.cfg")


def test_debians_own_file_takes_no_time_to_speak_of(tmp_path: Path) -> None:
    (tmp_path / "kamailio.cfg").write_text(stock_text())
    began = time.perf_counter()
    found = read(tmp_path / "kamailio.cfg", {"WITH_PRESENCE": ""})
    assert time.perf_counter() - began < 1.0  # some 10 ms, on a machine that does nothing else
    assert (found.oddities, found.doubles) == ([], [])
    assert {"request_route", "route[PRESENCE]", "failure_route[MANAGE_FAILURE]"} <= {*found.routes}
    assert found.loads("presence")


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.name)
def test_the_shipped_configurations_call_what_there_is(path: Path) -> None:
    found = read(path, {"MOD_presence": ""})
    called = {call.arguments[0] for call in found.called("python_exec")}
    has_ours = re.search(r'^include_file "(.*/)?nsq\.cfg"', path.read_text(encoding="utf-8"), re.MULTILINE)
    assert ("notify_unanswered" in called) == (path.name == "nsq.cfg" or has_ours is not None)
    assert {name for name in called if not hasattr(NativeNsq, name or "")} == set()
    assert found.doubles == []
