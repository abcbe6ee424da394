"""What pages of the documentation show as code: blocks of Python, files with their paths, and commands."""

import functools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: A comment in a page that is run before what follows it, and not shown.
_HIDDEN = re.compile(r"<!-- run\n(.*?)-->", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
#: What stands before the command's name where no environment is active.
_STARTS = re.compile(r"^(?:\$ )?(?:uv run (?:--\S+ (?:cluster |cuda |llm )?)*)?(?=testbed [a-z])")
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


class Block(NamedTuple):
    """A block of code: its language, the path of the file that it is (empty if none), its text, and its line."""

    language: str
    path: str
    text: str
    line: int


def name(page: Path) -> str:
    """As the repository has it."""
    return page.relative_to(ROOT).as_posix()


@functools.cache
def _tokens(page: Path):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    """All of a page; a hidden one is Python."""
    found = []
    for token in _tokens(page):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = _TITLE.search(rest)
            found.append(Block(language, title[1] if title else "", token.content, line))
        elif token.type == "code_block":
            found.append(Block("", "", token.content, line))
        elif token.type == "html_block" and (hidden := _HIDDEN.match(token.content)):
            found.append(Block("python", "", hidden[1], line))
    return found


def files(page: Path) -> dict[str, str]:
    """The files that a page has in full, by their paths."""
    return {block.path: block.text for block in blocks(page) if block.path}


def commands(page: Path) -> list[list[str]]:
    """Words of each `testbed` command in a page, in blocks and in sentences, after the command's name. Ones with words
    in capitals for what the reader puts in are left out, and so are names of subcommands."""
    lines = [line for block in blocks(page) for line in _lines(block)]
    inline = [
        child.content
        for token in _tokens(page)
        for child in token.children or ()
        if child.type == "code_inline"
    ]
    found = []
    for line in [*lines, *(text for text in inline if text.count(" ") > 1)]:
        for part in re.split(r" && | \| ", line.strip()):
            start = _STARTS.match(part)
            if start and not _PLACEHOLDER.search(part):
                words = shlex.split(part[start.end() :], comments=True)
                found.append(words[1 : words.index(">")] if ">" in words else words[1:])
    return found


def _lines(block: Block) -> list[str]:
    """Lines of a block that are commands, not what they print."""
    if block.language in ("", "sh", "bash", "console"):
        return block.text.replace("\\\n", " ").splitlines()
    return []
