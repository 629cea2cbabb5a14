# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq reload`: the consumers take a new version of the operator's Python script."""

from __future__ import annotations

from kemi_nsq.errors import ConnectionLost, TransientError
from kemi_nsq.monitoring.answers import ScriptSaid, asked, running
from kemi_nsq.tools import configured
from kemi_nsq.tools.configured import RunDir
from kemi_nsq.tools.output import AsJson, console, plain, write_json

#: More than the main thread of a consumer has for it (`consumer.console`).
_PATIENCE_S = 25.0


def reload(run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Have the consumers load the Python script anew, one after the other: its event routes, between two events.

    SIP workers go on with what they have until Kamailio is started again; so do settings. Exit codes: 0 all consumers
    have it; 1 one of them could not load it, and goes on as before, as do those after it; 2 there is no script.
    """
    folder = configured.run_dir(run_dir)
    done: dict[int, ScriptSaid] = {}
    for pid in running(folder):
        try:
            done[pid] = asked(ScriptSaid, folder, pid, "reload", timeout_s=_PATIENCE_S)
        except TransientError as error:
            before = f"; consumers that have loaded it: {', '.join(map(str, done))}" if done else ""
            raise ConnectionLost(f"consumer {pid}: {error}{before}") from error
    if as_json:
        write_json({"consumers": [{"pid": pid, **said.model_dump()} for pid, said in done.items()]})
        return
    for pid, said in done.items():
        console().print(plain(f"consumer {pid}: {said.file}, version {said.version}: {', '.join(said.handlers)}"))
