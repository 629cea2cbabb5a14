# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tests run in one process when several run them."""

from __future__ import annotations

import pytest

from tests.support.groups import group_of

TABLE, HIDDEN = "tests/integration/test_table_databases.py", "tests/integration/test_hidden_rows.py"
QUERY, FROZEN = "tests/acceptance/test_query.py", "tests/acceptance/test_frozen_database.py"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{TABLE}::test_a[postgresql]", f"{HIDDEN}::test_b[postgresql-20]"),
        (f"{QUERY}::test_a[native]", f"{QUERY}::test_b[native-MESSAGE]"),
        (f"{TABLE}::test_a[3]", f"{TABLE}::test_b"),
        ("tests/unit/test_a.py::TestA::test_a", "tests/unit/test_a.py::test_b"),
    ],
)
def test_those_that_share_servers_are_together(one: str, other: str) -> None:
    assert group_of(one) == group_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{TABLE}::test_a[postgresql]", f"{TABLE}::test_a[mariadb]"),
        (f"{QUERY}::test_a[native]", f"{QUERY}::test_a[kemi]"),
        (f"{FROZEN}::test_a[postgresql]", f"{FROZEN}::test_a[mariadb]"),
        (f"{FROZEN}::test_a[postgresql]", "tests/acceptance/test_outages.py::test_a[postgresql]"),
        (f"{QUERY}::test_a", f"{FROZEN}::test_a"),
    ],
)
def test_others_may_run_beside_each_other(one: str, other: str) -> None:
    assert group_of(one) != group_of(other)
