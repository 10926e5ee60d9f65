"""The README and the pages in docs/ keep their word: commands run or are at least understood, links lead somewhere.

Every fenced bash or python block follows a line that says what happens to it here:

    <!-- tested -->             it is run, offline, from a folder that all blocks of the page share, in the order of
                                the page: later blocks may use what earlier ones wrote
    <!-- not run: REASON -->    it is not run; lines of `csd3d` in it are read by the program, up to the work itself
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csd3d.cli.main import COMMANDS
from tests.toys import resolve_toy

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- (tested|not run: [^\n]+) -->\n)?```(\w*)\n(.*?)^```", re.M | re.S)
SECONDS = 240


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(mark, language, text) of every bash or python block."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [block for block in found if block[1] in ("bash", "python")]


TESTED = [page for page in PAGES if any(mark == "tested" for mark, _, _ in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", TESTED, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, server: dict[str, str]) -> None:
    """One test a page, because later blocks need what earlier ones wrote."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    code = os.pathsep.join([str(ROOT), str(DOCS / "examples")])
    env = {**os.environ, "PATH": path, "PYTHONPATH": code, "HF_HUB_OFFLINE": "1", **server}
    start = [sys.executable, "-S", server["CLIENT_PY"]]
    csd3d = f'csd3d() {{ {shlex.join(start)} "$@"; }}; '  # of this checkout, whichever is installed
    run = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [*start, "-c"]}
    for mark, language, block in blocks(page):
        if mark != "tested":
            continue
        done = subprocess.run(
            [*run[language], csd3d + block if language == "bash" else block],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def commands(text: str) -> Iterator[list[str]]:
    """The words after each `csd3d` of a block, variables and comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "csd3d" in words:
            words = words[words.index("csd3d") + 1 :]
            end = next((i for i, word in enumerate(words) if word.endswith(";")), len(words) - 1) + 1
            yield [word.removesuffix(";") for word in words[:end]]


NOT_RUN = [
    pytest.param(words, id=f"{page.name}-{' '.join(words)}")
    for page in PAGES
    for mark, language, text in blocks(page)
    if mark != "tested" and language == "bash"
    for words in commands(text)
]


class UnderstoodError(Exception):
    """Ends a command when its words were read."""


@pytest.mark.parametrize("words", NOT_RUN)
def test_commands_that_are_not_run_are_understood(words, only_toys, monkeypatch) -> None:
    def ending(read):
        def reading(*args: Any, **options: Any) -> None:
            read(*args, **options)
            raise UnderstoodError

        return reading

    modules = [COMMANDS[words[0]].module]
    if words[:2] == ["video", "batch"]:
        modules.append("csd3d.cli.video_batch")
    for module in map(importlib.import_module, modules):
        if module.__name__ == "csd3d.cli.image":
            module = importlib.import_module("csd3d.cli.panorama")
        for name in {"read_request", "read_dataclass"} & set(vars(module)):
            monkeypatch.setattr(module, name, ending(getattr(module, name)))
        if "resolve" in vars(module):
            monkeypatch.setattr(module, "resolve", resolve_toy)
    with pytest.raises(UnderstoodError):
        importlib.import_module(COMMANDS[words[0]].module).main(words[1:])


MADE = re.compile(r"(?:--output|world \w+|>|cp \S+|--run-dir|mkdir) (\S+)")
READ = re.compile(
    r"(?:csd3d (?:video|panorama|image)|--mask|--prompt-mask|apply \S+|batch|--resume --run-dir) (?!-)([\w./-]+)"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_command_reads_was_made_before_or_is_in_capitals(page: Path) -> None:
    """A page can be followed from its top: what is not made on it is somebody's own, CLIP.mp4."""
    made, missing = {"batch", "auto"}, list[str]()  # words of a command
    for _, language, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if language == "bash" else ():
            command = line.partition("#")[0]
            read = [name for name in READ.findall(command) if name.partition(".")[0].islower()]
            missing += [name for name in read if name not in made and name.partition("/")[0] not in made]
            made |= set(MADE.findall(command))
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_becomes_of_it(page: Path) -> None:
    found = blocks(page)
    assert not [text for mark, _, text in found if not mark]
    text = page.read_text(encoding="utf-8")
    assert sum(bool(mark) for mark, _, _ in found) == len(re.findall(r"^<!-- (?:tested|not run)", text, re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    links += re.findall(r'(?:src|href)="(?!https?://|#)([^"#]+)"', text)
    assert not [link for link in links if not (page.parent / link).exists()]
    for file, name in re.findall(r"\]\(([^)#\s:]*\.md)?#([^)\s]+)\)", text):
        titles = re.findall(r"^#+ (.*)", ((page.parent / file) if file else page).read_text(encoding="utf-8"), re.M)
        assert name in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, (file, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Also those of the packages: a page is not left behind when code moves."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])((?:csd3d|video|panorama|scripts|tests|configs|docs)/[\w/.-]*\w)", text))
    named = {name for name in named if "." in Path(name).name or (ROOT / name).parent.is_dir()}
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_the_readme_names_what_does_all_the_set_up() -> None:
    assert {"scripts/demo.sh", "scripts/test.sh"} <= set(re.findall(r"\bscripts/[\w/]+\.sh\b", PAGES[0].read_text()))


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r"- ([\w/-]+\.md)", menu))


@pytest.mark.slow
def test_the_pages_and_the_reference_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
