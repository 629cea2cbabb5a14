# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows that stay in the table but in no document.

With `startup_mode` 1 Kamailio makes a NOTIFY of the rows with `expires > now` (presence/notify.c,
`ps_db_get_p_notify_body`), and its cleaner deletes those with `0 < expires < now` (presence/publish.c,
`ps_presentity_db_timer_clean`). A row with a negative `expires` is seen by neither. So the table itself remembers

- a **tombstone**: a dialog, or a contact, that is over. Only its order key counts, so that a late event does not revive
  it;
- a **waiting** dialog: a live one for which its presentity's document has no room (NSQ_PUA_MAX_DIALOGS).

Both lie in ranges of their own, so that an index on `expires` finds either without the other. -1, which Kamailio's
hard-state PUBLISH stores, and 0 belong to neither.
"""

from __future__ import annotations

from kemi_nsq.presence.fields import MAX_INT32
from kemi_nsq.presence.packages import PACKAGES
from kemi_nsq.presence.packages.dialog import NAMESPACE, DialogState
from kemi_nsq.presence.row import Row

#: What is over of these leaves the document.
HIDING = frozenset(name for name, package in PACKAGES.items() if package.hides)
#: Only the live ones of this package are counted, and wait for room: of no other has a presentity very many.
SEATED = DialogState.package
#: What a tombstone holds. Kamailio looks through all dialog documents, hidden ones too, for the dialog of a phone's own
#: PUBLISH, and deletes the row (`ps_db_delete_presentity_if_dialog_id_exists`); in this one it finds none.
TOMBSTONE_BODY = f'<dialog-info xmlns="{NAMESPACE}" version="0" state="full" entity="sip:over@invalid"/>'.encode()

#: What is left of it when the `expires` of the row as it is shown is taken away is that of a waiting row.
WAITING_OFFSET = 10**9
#: The `expires` of waiting rows, whose states all end after 2023; those of tombstones are below.
WAITING = WAITING_OFFSET - MAX_INT32, WAITING_OFFSET - 1_700_000_000


def is_over(row: Row) -> bool:
    """Whether a row says that it is over, so that it leaves the document once its watchers have been told."""
    return row.terminal and row.event in HIDING


def tombstone_expires(until: int) -> int:
    """Return the `expires` of a tombstone that is kept until an epoch second."""
    return -until


def waiting_expires(until: int) -> int:
    """Return the `expires` of a waiting row whose state ends at an epoch second; the way back is the same."""
    return WAITING_OFFSET - until


def tombstone(row: Row) -> Row:
    """Return a row that is over as a tombstone."""
    return row._replace(expires=tombstone_expires(row.expires), body=TOMBSTONE_BODY)


def waiting(row: Row) -> Row:
    """Return the row of a live dialog as one that waits for room."""
    return row._replace(expires=waiting_expires(row.expires))
