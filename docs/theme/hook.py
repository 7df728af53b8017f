"""What the pages link to beside docs/: results of benchmarks, examples and the changelog are pages of the site, too."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
BESIDE = [*(ROOT / "benchmarks" / "results").glob("*.md"), *(ROOT / "examples").glob("*.py"), ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them; a program as a page that shows it."""
    for path in sorted(BESIDE):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = f"# {path.name}\n\n```python\n{text.rstrip()}\n```\n"
        name = path.relative_to(ROOT).with_suffix(".md").as_posix()
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the site, where docs/ is the top; what is not in the site is named without a link."""
    uri = Path(page.file.src_uri)
    place = ROOT / uri if page.file.generated_by else ROOT / "docs" / uri  # where the page lies in the tree

    def led(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        found = (place.parent / target).resolve()
        inside = found.relative_to(ROOT / "docs") if found.is_relative_to(ROOT / "docs") else found.relative_to(ROOT)
        name = inside.with_suffix(".md") if inside.suffix == ".py" else inside
        if files.get_file_from_path(name.as_posix()) is None:
            return str(words)
        return f"[{words}]({'../' * (len(uri.parts) - 1)}{name.as_posix()}{anchor or ''})"

    return LINK.sub(led, markdown)
