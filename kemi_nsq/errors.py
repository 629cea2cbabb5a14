# SPDX-License-Identifier: GPL-2.0-or-later
"""The exceptions of kemi-nsq.

Inside the package errors are raised. They become a log line and a code where routing logic called
(`plugin/functions.py`), an exit code in the command line (`tools/cli.py`), and in a consumer the fate of a message.

The tree, by what a caller can do about it::

    NsqError
    |-- UsageError            yours to fix: the same input fails again
    |   |-- SettingsError     a setting has a bad name or value
    |   |-- RunFolderError    the runtime folder cannot be used
    |   |-- NameRefused       a topic or channel name that NSQ refuses
    |   |-- AddressRefused    a text that is no host:port
    |   `-- PayloadError      a payload or event that cannot be used
    |       `-- RowRefused    the database refuses the row that it makes
    `-- TransientError        may pass: try again later
        |-- ConnectionLost    nsqd or nsqlookupd cannot be reached, or went away
        |-- ProtocolError     the peer does not speak the NSQ protocol, or not as agreed
        |-- NsqdRefused       nsqd answered with an error frame
        |-- DeadlineExceeded  no answer in the time that the caller gave
        |-- QueryFailed       no reply, or none that can be used
        |-- DatabaseError     the presence database refused or could not be reached
        `-- OutboxError       the outbox is full, or its file cannot be read or written

NameRefused and AddressRefused are ValueErrors too: so pydantic says which setting holds such a text. Anything else that
is raised is a bug of ours.
"""

from __future__ import annotations


class NsqError(Exception):
    """Base of everything that this package raises on purpose."""


class UsageError(NsqError):
    """The input is wrong; trying again does not help."""


class SettingsError(UsageError):
    """A setting has an unknown name or a value that is not allowed.

    `problems` holds one line for each wrong setting: its name, the value found and what is allowed.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class RunFolderError(UsageError):
    """The runtime folder cannot be made or read, is not safe, or is another Kamailio's."""


class NameRefused(UsageError, ValueError):
    """A topic or channel name is not one that NSQ accepts (1-64 of `.a-zA-Z0-9_-`, then optionally `#ephemeral`)."""


class AddressRefused(UsageError, ValueError):
    """A text is not the address of a nsqd or nsqlookupd, `host:port`."""


class PayloadError(UsageError):
    """A payload cannot be used: the message says what, where, and what would be right."""


class RowRefused(PayloadError):
    """The database refuses a row for what is in it: it would be refused again."""


class ScriptFailed(NsqError):
    """A new version of the operator's script cannot be used; the one that is there goes on."""


class TransientError(NsqError):
    """The world is not ready; the same call may succeed later."""


class ConnectionLost(TransientError):
    """A peer cannot be reached, or closed the connection."""


class ProtocolError(TransientError):
    """The peer sent bytes that the NSQ protocol does not allow; the connection must be dropped."""


class NsqdRefused(TransientError):
    """nsqd answered with an error frame.

    Attributes:
        code: NSQ's own word, such as `E_BAD_TOPIC`.
        fatal: nsqd closes the connection after it (NSQ TCP protocol spec, "Error Responses").
    """

    def __init__(self, code: str, text: str, *, fatal: bool) -> None:
        super().__init__(f"{code} {text}".strip())
        self.code = code
        self.fatal = fatal


class DeadlineExceeded(TransientError):
    """No answer came before the caller's deadline."""


class QueryFailed(TransientError):
    """A query got no reply that can be used; `reason` is the word for it in `$var(nqErr)`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DatabaseError(TransientError):
    """The presence database could not be read or written."""


class OutboxError(TransientError):
    """The outbox is full, or its file could not be read or written."""
