# SPDX-License-Identifier: GPL-2.0-or-later
"""Kamailio as a `host.Host`, through KEMI. The only module that imports `KSR`, which exists inside Kamailio only.

`KSR.*` may be called from the main thread of a process alone. Names of pseudo-variables are never built from data:
Kamailio keeps every name that it has seen (core/pvapi.c, pv_cache_get).
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import syslog
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import KSR  # exists inside Kamailio only
import orjson

from kemi_nsq.configuration.commandline import given
from kemi_nsq.counters import Counter
from kemi_nsq.host import NO_FIELDS, Level, LogPolicy, Suspended
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.logline import line
from kemi_nsq.plugin.presence_module import PresenceModule
from kemi_nsq.runtime import folder
from kemi_nsq.runtime.ending import Ending
from kemi_nsq.runtime.page import Page
from kemi_nsq.runtime.place import Place
from kemi_nsq.settings import INCLUDED, PREFIX

#: The htable of `kamailio/nsq.cfg` that holds the counters: `kamcmd htable.dump nsq`.
COUNTER_TABLE = "nsq"
#: The method of `kemi.KemiNsq` in which each suspended transaction goes on.
PYTHON_HOP = "ksr_nsq_continued"
_NO_SUCH_ITEM = -255
#: `KAMAILIO_5_6`, `KAMAILIO_VERSION` and the like.
_OWN_DEFINE = re.compile(r"KAMAILIO_([0-9]+(_[0-9]+)*|VERSION)|OS_NAME")
#: app_python3_mod.c, INTERNAL_VERSION
_KEMI_OF_6 = 1003
_STDERR = 2
#: Kamailio's program. Unlike CDLL, a call through this lets no other thread have Python's lock meanwhile.
_PROGRAM = ctypes.PyDLL(None)
_ROUTES_REMEMBERED = 256
#: Names of locks, of which at least one is free wherever there are some.
_LOCKS_TO_LOOK_AT = ("kemi-nsq 1", "kemi-nsq 2", "kemi-nsq 3", "kemi-nsq 4")
#: Level to Kamailio's word for it (core/dprint.c) and to syslog's number.
_ASIDE: Mapping[Level, tuple[str, int]] = {
    Level.CRITICAL: ("CRITICAL", syslog.LOG_CRIT),
    Level.ERROR: ("ERROR", syslog.LOG_ERR),
    Level.WARNING: ("WARNING", syslog.LOG_WARNING),
    Level.INFO: ("INFO", syslog.LOG_INFO),
    Level.DEBUG: ("DEBUG", syslog.LOG_DEBUG),
}


class _LogData(ctypes.Structure):
    """What the engine of `--log-engine` is told of a line (core/dprint.h, `ksr_logdata_t`), from 5.6 to 6.1."""

    _fields_ = (
        ("facility", ctypes.c_int),
        ("level", ctypes.c_int),
        ("level_name", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("line", ctypes.c_int),
        ("module", ctypes.c_char_p),
        ("function", ctypes.c_char_p),
        ("location", ctypes.c_char_p),
        ("pid", ctypes.c_int),
        ("process", ctypes.c_int),
    )


_ENGINE = ctypes.CFUNCTYPE(None, ctypes.POINTER(_LogData), ctypes.c_char_p, ctypes.c_char_p)


class KamailioHost:
    """What kemi-nsq asks of the Kamailio process that it runs in.

    Args:
        native: whether routes are those of kamailio.cfg, and not of a `cfgengine`.

    Attributes:
        page: in the runtime folder, as soon as that was taken.
        place: that folder.
        ending: how this process ends; native routes and the presence module may take long.
        log_policy: how lines are written.
    """

    def __init__(self, *, native: bool) -> None:
        self._native = native
        self._has_locks = False
        self._folder: folder.RunFolder | None = None
        self.page = Page()
        self.place: Place | None = None
        self.ending = Ending()
        self.log_policy = LogPolicy()
        self._presence = PresenceModule(KSR)

    def keep_subscriptions_in_memory(self) -> None:
        """Have versions grow where the presence module would repeat one."""
        self._presence.in_memory = True

    def take_run_folder(self, path: str) -> Mapping[str, float]:
        """Take it for the user that `kamailio -u`, or `user` in kamailio.cfg, will switch to after mod_init."""
        uid, gid = _own("uid") or os.geteuid(), _own("gid") or os.getegid()
        self._folder = folder.take(Path(path), uid=uid, gid=gid)
        self.page, self.place = self._folder.page, self._folder.place
        return self._folder.died

    def rank(self) -> int:
        """Read what app_python3 was told when this process began (app_python3_mod.c, `_apy_process_rank`)."""
        return _of_app_python3("_apy_process_rank")

    def stack_file(self) -> int:
        """Open `<pid>.stack` in the runtime folder."""
        return -1 if self._folder is None else self._folder.stack_file()

    def version(self) -> str:
        """Read the text `ver_version` of Kamailio's program (core/ver.c)."""
        try:
            return ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(_PROGRAM, "ver_version"))).decode()
        except ValueError:
            return ""

    def log(self, level: Level, text: str) -> None:
        """Write one line by `KSR.<level>`, which takes the text as it is, unless an operator has set a level."""
        policy = self.log_policy
        said = line(policy, level, text)
        if policy.level is None:
            getattr(KSR, level.value)(f"{said}\n")
        elif policy.admits(level):
            _write_aside(level, said)

    def log_aside(self, level: Level, text: str, fields: JsonObject = NO_FIELDS) -> None:
        """Write as Kamailio does, past its threshold."""
        policy = self.log_policy
        if policy.admits(level):
            for each in text.splitlines():
                _write_aside(level, line(policy, level, each, fields))

    def defines(self) -> Mapping[str, str]:
        """Read the value of each name of NSQ_."""
        names = _defined_names()
        return {name: _defined(name, names).strip("\"'") for name in names if name.startswith(PREFIX)}

    def configuration(self) -> tuple[str, Collection[str]]:
        """Read Kamailio's `cfg_file` (main.c), which is absolute unless it is `-`, and the names it has defined."""
        try:
            path = ctypes.c_char_p.in_dll(_PROGRAM, "cfg_file").value
        except ValueError:
            path = None
        return os.fsdecode(path or b""), _defined_names()

    def defined_before(self) -> Mapping[str, str]:
        """Read Kamailio's own command line (proc(5)), and what its program defines (core/ppcfg.c, pp_define_core)."""
        arguments = Path("/proc/self/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        own = {name: _definition(name) for name in _defined_names() if _OWN_DEFINE.fullmatch(name)}
        return own | given(arguments)

    def consumers(self) -> int | None:
        """Read what nsq.cfg gives evrexec, which starts one process for what is no number (evrexec_mod.c)."""
        if INCLUDED not in _defined_names():
            return None
        return max(1, int(KSR.pv.get("$(def(NSQ_CONSUMERS){s.unquote}{s.int})") or 0))

    def count(self, counter: Counter, number: int = 1) -> None:
        """Add in the page and in the htable."""
        self.page.count(counter, number)
        self.mirror(counter, number)

    def mirror(self, counter: Counter, number: int = 1) -> None:
        """Add to an item of the htable `nsq`, which all processes share; KEMI can add one, or read and write."""
        if number == 1 and KSR.htable.sht_inc(COUNTER_TABLE, counter) != _NO_SUCH_ITEM:
            return
        KSR.htable.sht_lock(COUNTER_TABLE, counter)
        KSR.htable.sht_seti(COUNTER_TABLE, counter, (KSR.htable.sht_get(COUNTER_TABLE, counter) or 0) + number)
        KSR.htable.sht_unlock(COUNTER_TABLE, counter)

    def set_variable(self, name: str, value: str) -> None:
        """Set `$var(name)`."""
        KSR.pv.sets(f"$var({name})", value)

    def leave_variable(self, name: str, value: str) -> bool:
        """Set `$var(name)`, and look whether it is there: KEMI does not say that the memory had no room for it."""
        self.set_variable(name, value)
        if self.variable(name) == value:
            return True
        self.set_variable(name, "")  # or an older value might stay
        return False

    def variable(self, name: str) -> str:
        """Return `$var(name)`; a number as its digits, but 0 as '', because that is what an unset one holds."""
        return str(KSR.pv.get(f"$var({name})") or "")

    def run_event_route(self, name: str, payload: str) -> bool:
        """Run a native event route in this process (evrexec_mod.c, `rpc_evr_run`)."""
        # Where that cannot be found out, evrexec says it, in a line for each name.
        if _has_event_route(name) is False:
            return False
        self.ending.at_once()
        return _answered("evrexec.run", name, payload)

    def has_event_route(self, name: str) -> bool:
        """Look an event route up as evrexec does."""
        return _has_event_route(name) is True

    def has_route(self, name: str) -> bool:
        """Look a route up by the module cfgutils; t_continue leaves the caller of one that is not there waiting."""
        return bool(KSR.cfgutils.check_route_exists(name) >= 0)

    def suspend_transaction(self, route: str, within_s: float) -> Suspended | None:
        """Suspend by tm, which makes the transaction if there is none yet (tmx_mod.c, `ki_t_suspend`).

        Its lifetime is the one timer of tm that bounds the time until then and is not what a route sets for its own
        t_relay (t_set_fr).
        """
        within_ms = math.ceil(within_s * 1000)
        KSR.tm.t_set_max_lifetime(within_ms, within_ms)
        if KSR.tmx.t_suspend() < 0:
            KSR.tm.t_reset_max_lifetime()
            return None
        return Suspended(index=KSR.pv.get("$T(id_index)"), label=KSR.pv.get("$T(id_label)"), route=route)

    def continue_transaction(self, suspended: Suspended) -> bool:
        """Continue by tm: from KEMI directly, else through `event_route[nsq:continue]` of nsq.cfg.

        Called from KEMI without a KEMI engine, t_continue answers 500 to the caller.
        """
        # tm's label has 32 bits without a sign; KEMI and pseudo-variables take them with one.
        index, label = suspended.index, (suspended.label & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
        self.set_variable("nqRoute", suspended.route)
        self.set_variable("nqContinued", "")
        if self._native:
            KSR.pv.seti("$var(nqIndex)", index)
            KSR.pv.seti("$var(nqLabel)", label)
            self.run_event_route("nsq:continue", "")
        else:
            self.ending.at_once()
            KSR.tmx.t_continue(index, label, PYTHON_HOP)
        # t_continue succeeds also where tm's timer came first, and then runs nothing.
        return self.variable("nqContinued") == "yes"

    def resumed_route(self) -> str:
        """Undo what `suspend_transaction` set, as `route[kemi_nsq_continued]` of nsq.cfg does for native routes."""
        self.set_variable("nqContinued", "yes")
        KSR.tm.t_reset_max_lifetime()
        return self.variable("nqRoute")

    def try_lock(self, name: str) -> bool | None:
        """Take a lock of the module cfgutils, as `trylock("name")` does in a route.

        Its `lock` would wait for ever, and no thread of ours would run. KEMI answers 1, or False where the keys are not
        those that it wants; and -1 where the lock is taken, or there is no set of locks: then no other one is free.
        """
        if _takes(name):
            self._has_locks = True
            return True
        for other in _LOCKS_TO_LOOK_AT if not self._has_locks else ():
            if _takes(other):
                self.unlock(other)
                self._has_locks = True
                break
        return False if self._has_locks else None

    def unlock(self, name: str) -> None:
        """Give back a lock of the module cfgutils."""
        KSR.cfgutils.unlock(name, *_more_keys())

    def refresh_watchers(self, presentity_uri: str, package: str) -> bool:
        """Send NOTIFYs by the presence module, if it is loaded."""
        self.ending.at_once()
        return self._presence.refresh(presentity_uri, package)

    def handle_request(self) -> bool:
        """Call `handle_subscribe` or `handle_publish` of the presence module, which answer the request."""
        return self._presence.handle()

    def wanted_state(self) -> tuple[str, str] | None:
        """Read it from a SUBSCRIBE without a To-tag."""
        return self._presence.wanted_state()


def _takes(name: str) -> bool:
    return bool(KSR.cfgutils.trylock(name, *_more_keys()) == 1)


def _more_keys() -> tuple[str, ...]:
    """Return what `trylock` and `unlock` of this Kamailio want besides a lock's name.

    6.0.0 and 6.0.1 export both twice, and Python finds those with two keys, of which the second may be empty. From
    6.0.2 on these have names of their own; the number of KEMI's version is the same in all of 6.x.
    """
    two_keys = KSR.__version__ == _KEMI_OF_6 and not hasattr(KSR.cfgutils, "lock_key2")
    return ("",) if two_keys else ()


def _defined(name: str, names: Collection[str]) -> str:
    """Return the value of a define, without the blanks (and CR) behind it, which Kamailio's parser passes over.

    Where that is a define too, return its value, as the parser does.

    It reads what it has put in place of a name again (core/cfg.lex, the rule of INITIAL for ID), so
    `#!define NSQ_DB_URL DBURL` gives the text of DBURL; a define without a value stays a name.
    """
    value, seen = _definition(name), {name}
    while value in names and value not in seen and (further := _definition(value)):
        seen.add(value)
        value = further
    return value


def _definition(name: str) -> str:
    return str(KSR.pv.get(f"$def({name})") or "").strip()


def _write_aside(level: Level, said: str) -> None:
    """Write as LOG_FX does (core/dprint.h): by `--log-engine`, to stderr, or to syslog by the name it has there."""
    word, priority = _ASIDE[level]
    if engine := _pointer("_ksr_slog_func"):
        number = priority - syslog.LOG_WARNING  # core/dprint.h: L_WARN is 0
        about = _LogData(priority, number, word.encode(), b"", 0, b"kemi-nsq", b"", b"", 0, 0)
        _ENGINE(engine)(ctypes.byref(about), b"%s\n", said.encode())
    elif _own("log_stderr"):
        with suppress(OSError):  # nobody reads it any more
            os.write(_STDERR, f"{_own('process_no'):2}({os.getpid()}) {word}: {said}\n".encode())
    else:
        # Python's own module `syslog` would open the log anew, and Kamailio lose its name there.
        ctypes.CDLL(None).syslog(priority, b"%s", f"{word}: {said}".encode())


@lru_cache(maxsize=_ROUTES_REMEMBERED)
def _has_event_route(name: str) -> bool | None:
    """Look an event route up as evrexec does, which writes an ERROR line for each that is not there.

    Names come from the network. `route_lookup` and `event_rt` (core/route.h) have been the same from 5.3 to 6.1 and are
    what modules use; KEMI has nothing for it. Routes do not change while Kamailio runs.

    Returns:
        None for a Kamailio that has them no more.
    """
    try:
        routes = ctypes.byref(ctypes.c_char.in_dll(_PROGRAM, "event_rt"))
        return bool(_PROGRAM.route_lookup(routes, name.encode()) >= 0)
    except (ValueError, AttributeError):
        return None


def threads_mode() -> int:
    """Return app_python3's parameter of that name; 0 before 6.0, which has none (app_python3_mod.c, `params`)."""
    return _of_app_python3("_ksr_apy3_threads_mode")


def _of_app_python3(name: str) -> int:
    """Read an integer of the module, 0 if it has none of that name."""
    loaded = re.search(r"/\S*/app_python3\.so$", Path("/proc/self/maps").read_text(errors="replace"), re.MULTILINE)
    return _own(name, ctypes.CDLL(loaded[0])) if loaded else 0


def _own(name: str, program: ctypes.CDLL = _PROGRAM) -> int:
    """Read an integer of Kamailio's program, such as `uid` (main.c, core/globals.h); 0 if it has none of that name."""
    try:
        return ctypes.c_int.in_dll(program, name).value
    except ValueError:
        return 0


def _pointer(name: str) -> int | None:
    """Read a pointer of Kamailio's program; None if it is NULL, or there is none of that name."""
    try:
        return ctypes.c_void_p.in_dll(_PROGRAM, name).value
    except ValueError:
        return None


def _defined_names() -> list[str]:
    """List the names of the preprocessor (core/core_cmd.c, `core.ppdefines`)."""
    found = orjson.loads(KSR.pv.get("$jsonrpl(body)"))["result"] if _answered("core.ppdefines") else []
    return [name for name in found if isinstance(name, str)]


def _answered(method: str, *params: str) -> bool:
    """Call an RPC command inside this process; return whether it succeeded."""
    request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
    KSR.jsonrpcs.exec(orjson.dumps(request).decode())
    return bool(KSR.pv.get("$jsonrpl(code)") == 200)  # as in SIP and HTTP
