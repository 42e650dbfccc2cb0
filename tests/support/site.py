"""``make docs``: the documentation as a site in ``dist/docs/site``, from ``docs/``, the changelog and what runs.

The pages stay as GitHub shows them. Here links that lead out of the documentation become links to the repository, and
diagrams become pictures, drawn once, so that readers need neither JavaScript nor another host. Whatever does not fit
(a link or anchor that leads nowhere, a diagram with a mistake) ends the build.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from html import escape
from os.path import relpath
from pathlib import Path, PurePosixPath

import mermaidx  # type: ignore[import-untyped]

from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate
from tests.support.reference import reference_pages

__all__ = ["CONFIGURATION", "SiteError", "build_site", "sources"]

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATION = REPOSITORY / "docs" / "site"
_DRAWN = REPOSITORY / "dist" / "diagrams"

_FROM_THE_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# in this order: a link in code is none
_PART = re.compile(
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)"
    r"|\]\((?P<target>[^)\s#]+)(?P<anchor>(?:#[^)\s]*)?)\)",
    re.DOTALL | re.MULTILINE,
)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
_SIZE = re.compile(r'viewBox="\S+ \S+ (\S+) (\S+)"')
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# the fonts have one metric: the one that labels are measured with
_DRAWING = {"fontFamily": "'DejaVu Sans', Verdana, sans-serif"}


class SiteError(Exception):
    """The site cannot be built; the message says which pages and why."""


def sources() -> dict[str, Path]:
    """Path below the site's pages -> file of the repository, for all that people write."""
    written = REPOSITORY / "docs"
    pages = {file.relative_to(written).as_posix(): file for file in sorted(written.rglob("*.md"))}
    return pages | {page: REPOSITORY / file for file, page in _FROM_THE_ROOT.items()}


def build_site(folder: Path, pages: Mapping[str, Path], generated: Mapping[str, str]) -> Path:
    """Build the site in ``folder`` and return where it is; raises SiteError with all problems.

    ``pages`` as :func:`sources` gives them; ``generated``: path below the pages -> text.
    """
    shutil.rmtree(folder, ignore_errors=True)
    target = folder / "pages"
    shutil.copytree(REPOSITORY / "docs" / "images", target / "images")
    shutil.copy(CONFIGURATION / "site.css", target)
    shutil.copy(CONFIGURATION / "zensical.toml", folder)
    problems: list[str] = []
    for name, file in pages.items():
        for path, text in _Page(name, file, pages, problems).files().items():
            _write(target / path, text)
    for name, text in generated.items():
        _write(target / name, text)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        problems.append(_COLOURS.sub("", done.stdout + done.stderr).partition("Traceback")[0])
    if problems:
        raise SiteError("\n".join(problems))
    return folder / "site"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


class _Page:
    """A page on its way from the repository to the site."""

    def __init__(self, name: str, file: Path, pages: Mapping[str, Path], problems: list[str]) -> None:
        self._name, self._file = PurePosixPath(name), file
        self._by_file = {source.resolve(): page for page, source in pages.items()}
        self._pictures: dict[str, str] = {}
        self._problems = problems

    def files(self) -> dict[str, str]:
        """Path below the site's pages -> text: the page, and the pictures on it."""
        text = _PART.sub(self._change, self._file.read_text("utf-8"))
        return {str(self._name): text, **self._pictures}

    def _change(self, part: re.Match[str]) -> str:
        if part["language"] == "mermaid":
            return self._picture(part["code"])
        if part["target"]:
            return f"]({self._link(part['target'])}{part['anchor']})"
        return part[0]

    def _link(self, target: str) -> str:
        if _ELSEWHERE.match(target):
            return target
        found = (self._file.parent / target).resolve()
        if not found.exists():
            self._problems.append(f"{self._file.name}: nothing is at {target}")
            return target
        if found in self._by_file:
            return relpath(self._by_file[found], self._name.parent)
        if found.is_relative_to(REPOSITORY / "docs" / "images"):
            return relpath(found.relative_to(REPOSITORY / "docs"), self._name.parent)
        kind = "tree" if found.is_dir() else "blob"
        return f"{_repository()}/{kind}/main/{found.relative_to(REPOSITORY).as_posix()}"

    def _picture(self, code: str) -> str:
        path = f"diagrams/{str(self._name.with_suffix('')).replace('/', '-')}-{len(self._pictures) + 1}.svg"
        try:
            self._pictures[path] = drawn = _drawn(code)
        except Exception as error:  # noqa: BLE001 (whatever Mermaid throws)
            self._problems.append(f"{self._file.name}: a diagram has a mistake: {error}")
            return ""
        source = relpath(path, self._name.parent)
        words = escape("; ".join(line.strip() for line in code.strip().splitlines()))
        width, height = (round(float(size)) for size in _SIZE.findall(drawn)[0])
        return f'<p class="diagram"><img src="{source}" width="{width}" height="{height}" alt="{words}"></p>'


def _drawn(code: str) -> str:
    """The diagram as SVG. It takes a second, so it is kept."""
    key = hashlib.sha256(repr((mermaidx.__version__, _DRAWING, code)).encode()).hexdigest()
    known = _DRAWN / f"{key}.svg"
    if not known.exists():
        drawn = mermaidx.render(code, theme="neutral", config=_DRAWING).svg()
        _write(known, drawn)
    return known.read_text("utf-8")


def _repository() -> str:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["urls"]["Source"])


def main() -> None:
    server = LocalPostgres()
    try:
        database_url = server.create_look_alike("reference")
        migrate(database_url)
        generated = reference_pages(database_url)
    finally:
        server.stop()
    try:
        site = build_site(REPOSITORY / "dist" / "docs", sources(), generated)
    except SiteError as error:
        sys.exit(str(error))
    print(f"The documentation is in {site.relative_to(REPOSITORY)}/index.html")


if __name__ == "__main__":
    main()
