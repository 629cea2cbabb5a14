# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files that settings have: the same bytes in every locale, also in none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kemi_nsq.errors import SettingsError
from kemi_nsq.filename import path_of, readable, text_of
from kemi_nsq.loading import load

NAME = "lämpchen 李"
#: Reads all that is a name of a file from `settings`, and opens it.
PROGRAM = """
import sys
from kemi_nsq.errors import SettingsError
from kemi_nsq.filename import readable
from kemi_nsq.loading import in_force, load
from kemi_nsq.presence.database import sqlalchemy_url
assert sys.getfilesystemencoding() == "ascii"
values = load({defines})
assert in_force(values)["NSQ_OUTBOX"] == readable(values.outbox)
assert readable(values.outbox).isprintable()
for path in (values.outbox, values.run_dir, sqlalchemy_url(values.db_url).database):
    with open(path, encoding="ascii") as file:
        sys.stdout.buffer.write(f"{{readable(path)}} {{file.read()}}\\n".encode())
"""


@pytest.mark.parametrize("where", ["#!define", "environment"])
def test_a_name_beyond_ascii_is_found_without_a_locale(tmp_path: Path, where: str) -> None:
    paths = [tmp_path / f"{NAME} {number}" for number in range(3)]
    for path in paths:
        path.write_text("is open", encoding="ascii")
    given = {"NSQ_OUTBOX": f"{paths[0]}", "NSQ_RUN_DIR": f"{paths[1]}", "NSQ_DB_URL": f"sqlite:///{paths[2]}"}
    defines, environment = (given, {}) if where == "#!define" else ({}, given)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(defines=ascii(defines))],
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", **environment},
        capture_output=True,
        check=False,
    )
    assert done.stderr.decode() == ""
    assert done.stdout.decode().splitlines() == [f"{path} is open" for path in paths]


def test_in_a_locale_of_utf_8_a_name_stays_as_it_is() -> None:
    assert load({"NSQ_OUTBOX": f"/{NAME}"}).outbox == f"/{NAME}"
    assert path_of(text_of(NAME)) == NAME


def test_what_python_could_not_decode_is_shown_as_what_it_is() -> None:
    undecoded = f"/srv/{NAME}".encode().decode("ascii", "surrogateescape")
    assert readable(f"there is no file {undecoded}, or so") == f"there is no file /srv/{NAME}, or so"
    assert readable("\udcff\ud800") == "\ufffd\ud800"


def test_a_name_that_is_not_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"NSQ_OUTBOX", b"/l\xe4mpchen")
    with pytest.raises(SettingsError) as caught:
        load({})
    (line,) = caught.value.problems
    assert line.startswith("NSQ_OUTBOX ")
    assert "it is not UTF-8" in line
