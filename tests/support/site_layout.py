# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook of mkdocs.yml: the site has the layout of the repository, and the decision records in its navigation.

MkDocs takes the pages of `docs/` only, and makes that folder the root. Here they keep their place below `docs/`, and
the pages of the repository's root and the files of `kamailio/` join them, so a relative link that works where the code
is kept works in the site.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
RECORDS = "docs/decisions"
#: What pages link to, outside of `docs/`.
_BESIDE = ("*.md", "LICENSE", "kamailio/**/*.cfg", "kamailio/**/*.py")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the decision records, by number, at the end of the navigation's last section."""
    records = [f"{RECORDS}/{record.name}" for record in sorted((ROOT / RECORDS).glob("[0-9]*.md"))]
    if not config.nav:
        raise PluginError("mkdocs.yml has no nav; its last section is where the decision records go")
    (pages,) = config.nav[-1].values()
    pages.append({"Decisions": [f"{RECORDS}/README.md", *records]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give each file of `docs/` its path in the repository, and add those beside that folder."""
    docs = [file.src_uri for file in files if file.src_dir == config.docs_dir]
    for uri in docs:
        files.remove(files.src_uris[uri])
    paths = [f"{Path(config.docs_dir).name}/{uri}" for uri in docs]
    paths += [str(path.relative_to(ROOT)) for pattern in _BESIDE for path in ROOT.glob(pattern)]
    for path in paths:
        files.append(_file(path, config))
    return files


def _file(path: str, config: MkDocsConfig) -> File:
    file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
    if path.startswith("kamailio/") or path == "LICENSE":
        file.dest_uri = f"{path}.txt"  # a browser shows it; without a suffix that it knows it would save it
    return file
