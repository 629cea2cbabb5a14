# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files as settings have them: bytes of UTF-8, as in kamailio.cfg, whatever the locale of the process is.

A service often has none (no LANG, or LANG=C). Then Python takes names for ASCII and cannot pass on a letter beyond.
"""

from __future__ import annotations

import os
import re

#: What Python makes of bytes that it cannot decode.
_UNDECODED = re.compile("[\udc80-\udcff]+")


def text_of(name: str) -> str:
    """Return the letters of a name that may come from the environment, whose bytes Python could not decode.

    Raises:
        ValueError: its bytes are not UTF-8.
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ValueError("it is not UTF-8") from None


def path_of(text: str) -> str:
    """Return a name in the form in which Python passes its UTF-8 bytes on to the operating system, in any locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def readable(text: str) -> str:
    """Return a text for people, with the letters of each name in it that `path_of` has made."""
    return _UNDECODED.sub(lambda found: found[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace"), text)
