# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Prometheus on loopback, configured as docs/metrics.md says: it scrapes one target, and answers queries."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.markdown import examples
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.process import ChildProcess, find_program
from tests.support.until import until

#: Or the tests would wait for a minute.
_OFTEN = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
#: What docs/metrics.md says, and what the tests have in its place.
_TARGET, _RULES = "127.0.0.1:9151", "/usr/share/kemi-nsq/monitoring/alerts.yml"


class Prometheus:
    """Prometheus, with its data in a folder.

    Args:
        folder: where its configuration, log and data go.
        target: `host:port` to scrape.
        rules: a file of alert rules.
    """

    def __init__(self, folder: Path, target: str, rules: Path) -> None:
        self.address = f"{LOOPBACK}:{free_tcp_port()}"
        self._folder = folder
        folder.mkdir()
        self._file = folder / "prometheus.yml"
        (example,) = (each.text for each in examples("yaml") if each.page.name == "metrics.md")
        assert _TARGET in example
        assert _RULES in example
        self._file.write_text(_OFTEN + example.replace(_TARGET, target).replace(_RULES, str(rules)), encoding="utf-8")

    def __enter__(self) -> Self:
        options = [f"--config.file={self._file}", f"--storage.tsdb.path={self._folder}/data"]
        options += [f"--web.listen-address={self.address}", "--query.lookback-delta=30s"]
        self._process = ChildProcess("prometheus", [find_program("prometheus"), *options], folder=self._folder)
        self._process.wait_for_log("Server is ready to receive web requests")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression is now.

        Raises:
            urllib.error.HTTPError: it cannot be evaluated.
        """
        return list(self._get("query", query=expression)["result"])

    def alerts(self) -> dict[str, str]:
        """Return the alerts that are there, and whether each is `pending` or `firing`."""
        return {each["labels"]["alertname"]: each["state"] for each in self._get("alerts")["alerts"]}

    def is_scraped(self) -> bool:
        """Whether the target answered the last time."""
        (target,) = self._get("targets")["activeTargets"] or [{"health": ""}]
        return bool(target["health"] == "up")

    def _get(self, what: str, **query: str) -> dict[str, Any]:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)["data"]
        return found


def promtool(*words: str, stdin: bytes = b"") -> tuple[int, str]:
    """Run promtool; return its exit code and what it says."""
    command = [find_program("promtool"), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode()


def wait_for(prometheus: Prometheus, expression: str, *, timeout_s: float = 20.0) -> list[dict[str, Any]]:
    """Wait until an expression has a value."""
    return until(lambda: prometheus.query(expression), timeout_s=timeout_s, what=f"{expression} to have a value")
