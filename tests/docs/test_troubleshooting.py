"""Every message that docs/troubleshooting.md quotes is one that the code can print."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs import pages

GAP = "…"
PAGE = (pages.ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.+)$", PAGE, flags=re.MULTILINE)
QUOTED = [heading.strip("`") for heading in HEADINGS if heading.startswith("`")]


def template(node: ast.AST) -> str:
    """A literal with a gap for each value that it inserts; empty for other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or GAP for part in node.values)
    return ""


@cache
def templates() -> str:
    """Every text in the code of the library and the stages, each on its lines between NUL characters."""
    files = [path for folder in ("pipeline", "stages") for path in sorted((pages.ROOT / folder).rglob("*.py"))]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    texts = [text for tree in trees for node in ast.walk(tree) if (text := template(node))]
    return "\0".join(texts)


def can_be_printed(message: str) -> bool:
    """Whether one text of the code has the constant parts of a message, in their order."""
    pattern = "[^\0]*".join(re.escape(part) for part in message.split(GAP))
    return re.search(pattern, templates()) is not None


def test_messages_are_quoted() -> None:
    assert len(QUOTED) > 25


@pytest.mark.parametrize("message", QUOTED)
def test_the_code_prints_a_quoted_message(message: str) -> None:
    assert len(message.replace(GAP, "").strip("; ")) > 8, "too short to be found by"
    assert can_be_printed(message)


def test_other_messages_are_not_found() -> None:
    assert can_be_printed("unknown key; …") and can_be_printed("has no split '…'")
    assert not can_be_printed("unknown key; but not so") and not can_be_printed("unknown key … has no split")
