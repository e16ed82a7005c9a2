"""Builds the documentation strictly, and checks its links, its spelling and its completeness.

`python run.py DIRECTORY`. The site is left in the directory. Links to other sites are listed, not
followed.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from spylls.hunspell import Dictionary

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "langchain_anyio"
WORDS = Path(__file__).with_name("words.txt")
MARKDOWN = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def main() -> int:
    (directory,) = sys.argv[1:]
    site = Path(directory).resolve()
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    faults = [*check_links(site), *check_names(site), *check_files(), *check_spelling()]
    print(*faults, sep="\n")
    return 1 if faults else 0


class Page(HTMLParser):
    """The links of a page, and the places in it that links may lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is not None and name in ("href", "src"):
                self.links.add(value)
            elif value is not None and name == "id":
                self.anchors.add(value)


def check_links(site: Path) -> Iterator[str]:
    """Every link within the site leads to a file, and to a place in it."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    inside, outside = 0, set()
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute, for whatever address was asked for
            continue
        for link in sorted(page.links):
            if urlsplit(link).scheme in ("data", "javascript"):
                continue
            if urlsplit(link).scheme:
                outside.add(link)
                if not link.startswith("https://"):
                    yield f"{path.name}: {link} is not https"
                continue
            inside += 1
            address, anchor = urldefrag(unquote(link))
            target = (path.parent / address).resolve() if address else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or site not in target.parents:
                yield f"{path.relative_to(site)}: {link} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link} leads to no place of the page"
    print(f"{len(pages)} pages, {inside:,} links within the site, {len(outside)} to others:")
    hosts: dict[str, int] = {}
    for link in outside:
        hosts[urlsplit(link).netloc] = hosts.get(urlsplit(link).netloc, 0) + 1
    print(*(f"  {count:4} {host}" for host, count in sorted(hosts.items())), sep="\n")


def check_names(site: Path) -> Iterator[str]:
    """The reference has each public name, and each public method and attribute of a class."""
    anchors = {anchor for path in site.rglob("reference/*.html") for anchor in Page(path).anchors}
    names = {f"langchain_anyio.{name}" for name in public_names(SOURCE / "__init__.py")}
    inner = public_names(SOURCE / "langgraph" / "__init__.py")
    names |= {f"langchain_anyio.langgraph.{name}" for name in inner}
    print(f"{len(names)} public names in the reference, {len(anchors):,} places")
    for name in sorted(names - anchors):
        yield f"{name} is not in the reference"


def public_names(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def check_files() -> Iterator[str]:
    """Links between the files of the repository, as its web page shows them, lead to files."""
    count = 0
    for path in MARKDOWN:
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if urlsplit(link).scheme or link.startswith("#"):
                continue
            count += 1
            target = path.parent / urldefrag(link)[0]
            # Pages of the site that are made of files of the repository.
            if not target.is_file() and target.name not in ("changelog.md", "contributing.md"):
                yield f"{path.relative_to(ROOT)}: {link} leads to no file"
    print(f"{count} links between the files of the repository")


def check_spelling() -> Iterator[str]:
    """Every word of prose is in a dictionary of American English, or in `words.txt`."""
    own = set(WORDS.read_text(encoding="utf-8").split())
    dictionary = Dictionary.from_files("en_US")  # comes with spylls
    known: dict[str, bool] = {}
    count = 0
    for path, text in [*prose_of_pages(), *docstrings()]:
        for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text):
            count += 1
            plain = word.removesuffix("'s")
            if plain not in known:
                known[plain] = (
                    len(plain) == 1
                    or not own.isdisjoint((plain, plain.lower()))
                    or dictionary.lookup(plain)
                )
            if not known[plain]:
                yield f"{path}: {word!r} is in no dictionary, nor in words.txt"
    print(f"{count:,} words of prose, {len(known):,} different, {len(own)} of them in words.txt")


def plain(text: str) -> str:
    """Return Markdown without code, addresses, and names of files, which are no prose."""
    text = re.sub(r"^( *)(`{3,}).*?^\1\2$", " ", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"``.*?``|`[^`]*`", " ", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->|<[^>]+>", " ", text, flags=re.DOTALL)
    text = re.sub(r"\]\[[^\]]*\]|\]\([^)]*\)|https?://\S+|::: \S+", " ", text)
    return re.sub(r"\S*[_/]\S*|\b\w+\.\w+\b", " ", text)


def prose_of_pages() -> Iterator[tuple[str, str]]:
    for path in MARKDOWN:
        text = path.read_text(encoding="utf-8")
        if path.name == "benchmarks.md":  # its tables are names of functions
            text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
        yield str(path.relative_to(ROOT)), plain(text)


def docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    # The names of arguments stand before a colon.
                    text = re.sub(r"^ +\w+:", " ", text, flags=re.MULTILINE)
                    yield str(path.relative_to(ROOT)), plain(text)


if __name__ == "__main__":
    sys.exit(main())
