"""Links of the pages lead somewhere, in the repository and on the site."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in pages.links(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in pages.anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_the_check_finds_links_and_anchors() -> None:
    text = "# One `two` & three\n\n[a](b.md#c) `[no](x)` ![p](d.png)\n\n```\n[no](y)\n# none\n```\n"
    assert pages.links(text) == ["b.md#c", "d.png"]
    assert pages.anchors(text) == {"one-two--three"}
