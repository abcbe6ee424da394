"""Hooks of MkDocs: what pages show of the code is taken from the code.

A line ``<!-- catalogue: losses -->`` becomes what `testbed list losses` prints, as Markdown, a line
``<!-- file: examples/my_loss.py -->`` the file, and ``<!-- modules: sweeps/rules -->`` the reference of all modules there.
"""

import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_MARK = re.compile(r"^<!-- (catalogue|file|modules): (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for."""
    return _MARK.sub(
        lambda mark: {"catalogue": family, "file": listing, "modules": reference}[mark[1]](mark[2]),
        markdown,
    )


def listing(path: str) -> str:
    """A file of the repository as a block of code."""
    return f'```python title="{path}"\n{(_ROOT / path).read_text().rstrip()}\n```'


def reference(folder: str) -> str:
    """The reference of every module of a folder."""
    files = sorted((_ROOT / folder).glob("[!_]*.py"))
    return "\n\n".join(f"::: {folder.replace('/', '.')}.{file.stem}" for file in files)


def family(what: str) -> str:
    """The members of a family: what each computes, where that is from, its fields with ranges."""
    from sweeps.catalogue import families

    parts = []
    for entry in families.entries(what):
        parts.append(f"### `{entry.name}`\n\n{_plain(entry.formula)}")
        if entry.citation:
            parts.append(f"*{_linked(_plain(entry.citation))}*")
        rows = [
            f"| `{one.name}` | {f'`{one.default}`' if one.default else 'none'} "
            f"| {_plain(one.admits)} | {_plain(one.meaning)} |"
            for one in entry.parameters
        ]
        if rows:
            parts.append(
                "\n".join(["| field | default | admits | meaning |", "|---|---|---|---|", *rows])
            )
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text that is no markup and stays inside its cell."""
    return re.sub(r"([\\|*_`\[\]<])", r"\\\1", text)


def _linked(text: str) -> str:
    """arXiv numbers as links."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
