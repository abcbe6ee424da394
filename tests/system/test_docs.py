"""Every snippet of the documentation: Python runs, commands are understood, and what is refused is refused as said."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from snippets import PAGES, ROOT, blocks, commands, files, name

from sweeps import api, inspection, runtime
from sweeps.cli import main as cli
from sweeps.study import load_study
from testbed.errors import InvalidInput

#: Pages whose snippets need SmolLM2, which is fetched.
FETCHING = {"docs/llm.md"}
#: What an outsider writes, each with a page of its own.
OUTSIDERS = ("loss", "labeler", "golden", "proxy", "source", "task", "estimand", "rule")
COMMANDS = [
    pytest.param(words, id=f"{name(page)}: {' '.join(words)}")
    for page in PAGES
    for words in commands(page)
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory as a reader's, with the files that snippets name."""
    for folder in ("examples", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    text = (ROOT / "examples" / "pick_pairs.py").read_text()
    (tmp_path / "my_study.py").write_text(text)
    for path, text in files(ROOT / "README.md").items():
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "configure", lambda: None)
    yield tmp_path
    for module in ("my_study", "absolute_ipo"):
        sys.modules.pop(module, None)


def runnable(page: Path) -> str:
    """The Python of a page as one program, each line where the page has it."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and not block.path:
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (name(page) in FETCHING))
        for page in PAGES
        if runnable(page).strip()
    ],
)
def test_python_runs(page: Path, here: Path) -> None:
    exec(compile(runnable(page), name(page), "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(words: list[str], here: Path) -> None:
    """By the command line's own parser, and, of a study or a task, by what makes its configs."""
    if len(words) == 1:
        return  # a subcommand, by name
    options = cli.parser().parse_args(words)
    if words[0] == "run":
        for each in options.study:
            understood(load_study(each), options)
    elif words[0] == "inspect":
        assert inspection.configure(options.task, options.set, options.seed, options.quick)


REFUSED = {
    (page, line.removeprefix("$ ").removeprefix("uv run "), answer)
    for page in PAGES
    for block in blocks(page)
    for line, answer in re.findall(r"^\$ (.+)\n(testbed: (?:.|\n)+?)(?=^\$ |\Z)", block.text, re.M)
}


def understood(study, options) -> None:
    """A selection that has runs; what a page adds is not there yet, and some commands are there to be refused."""
    try:
        assert study.select_texts(options.preset, options.seeds, options.set, options.axis).arms
    except InvalidInput as problem:
        told = " ".join(str(problem).split())
        added = {Path(path).stem for page in PAGES for path in files(page)}
        refused = any(told in " ".join(answer.split()) for _, _, answer in REFUSED)
        assert refused or any(f"'{each.title()}'" in told for each in added), told


@pytest.mark.parametrize(("page", "command", "answer"), sorted(REFUSED), ids=lambda x: str(x)[:40])
def test_what_is_refused_is_refused_in_these_words(
    page: Path, command: str, answer: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.removeprefix("testbed ").split()) == 2
    assert " ".join(capsys.readouterr().err.split()) == " ".join(answer.split())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_scripts_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("bash", "sh"):
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@pytest.mark.parametrize("what", OUTSIDERS)
def test_pages_on_classes_of_ones_own_have_one_form(what: str) -> None:
    """A file that can be pasted and is run by tests, the command, what is checked, and what enters the cache."""
    text = (ROOT / "docs" / "howto" / f"{what}.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings == [
        "The file",
        "Run it",
        "What is checked",
        "What enters the cache",
        "Among the testbed's own",
    ]
    assert f"<!-- file: examples/my_{what}.py -->" in text
    assert (ROOT / "examples" / f"my_{what}.py").is_file()
    assert f"testbed run examples/my_{what}.py --dry-run" in text


def test_the_readme_is_read_in_two_minutes(here: Path) -> None:
    """And the loss in it passes the checks that every command makes."""
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 130
    ((path, text),) = files(readme).items()
    assert sum(bool(line) for line in text.splitlines()) <= 12
    console = Console(quiet=True)
    assert api.forecast(path, preset="smoke", out=here / "out", console=console).runs == 8


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=name)
def test_links_outside_of_the_site_hold(page: Path) -> None:
    """The site's own links are checked where it is built; a part after ``#`` must be a heading."""
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert page.name == "CHANGELOG.md" or len(links) > 2
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M) if anchor else []
        slugs = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings]
        assert not anchor or anchor in slugs, link


def test_every_page_is_in_the_navigation() -> None:
    """And the site's configuration names no page that there is not."""
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.SafeLoader)

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for value in entry.values() if isinstance(entry, dict) else ():
            yield from pages(value)
        for value in entry if isinstance(entry, list) else ():
            yield from pages(value)

    own = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.parent != ROOT}
    assert set(pages(site["nav"])) == own


def test_the_reader_of_pages_is_sharp(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`testbed list losses`, `testbed inspect TASK`\n\n    testbed run gap --seeds 2 # so\n\n"
        "```sh\nuv run --extra llm testbed llm fetch | cat\n```\n\n"
        "<!-- run\nx = 1\n-->\n\n```python\nassert x == 1\n```\n\n"
        '```python title="a/b.py"\ny = 2\n```\n'
    )
    assert commands(page) == [
        ["run", "gap", "--seeds", "2"],
        ["llm", "fetch"],
        ["list", "losses"],
    ]
    assert files(page) == {"a/b.py": "y = 2\n"}
    assert runnable(page).split("\n").index("assert x == 1") == 13
