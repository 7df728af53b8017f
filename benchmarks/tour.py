"""Mini-batch gradient descent, measured: makes every number and picture of docs/measured.md and docs/zh/measured.md.

    make tour                         # or: python benchmarks/tour.py; under 30 minutes on two cores
    python benchmarks/tour.py --quick # a trial of all of it in a few minutes; leaves the pages as they are
    python benchmarks/tour.py --only rates,penalties
    python benchmarks/tour.py --pages # writes the pages again from benchmarks/results/measured.json, measures nothing

A number stands in a page between marks, <!--key-->0.31<!---->, and is written there by this command in both languages.
The data are scikit-learn's, and those of --data for the last chapter, which is left out where they are not there.
"""

import argparse
import json
import os
import re
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a step of a small model is quickest on one

from drawing import Chart, Series, Surface, svg

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "measured.json"
PAGES = (ROOT / "docs" / "measured.md", ROOT / "docs" / "zh" / "measured.md")
IMAGES = ROOT / "docs" / "img" / "measured"
MARK = re.compile(r"<!--([a-z0-9_.]+)-->(.*?)<!---->", re.DOTALL)


def values_of(results: dict[str, dict[str, object]], language: int) -> dict[str, str]:
    """Every value by its key, in words of the language (0 English, 1 Chinese)."""
    found: dict[str, str] = {}
    for chapter in results.values():
        for key, value in chapter["values"].items():  # type: ignore[attr-defined]
            found[key] = value if isinstance(value, str) else value[language]
    return found


def filled(text: str, values: dict[str, str]) -> str:
    """The page with the values at its marks, and a dash at those that were not measured."""
    return MARK.sub(lambda mark: f"<!--{mark[1]}-->{values.get(mark[1], '–')}<!---->", text)


def restored(chart: dict[str, object]) -> Chart:
    """A chart from its JSON."""
    lines = [Series(**line) for line in chart["series"]]  # type: ignore[attr-defined]
    surface = Surface(**chart["surface"]) if chart["surface"] else None  # type: ignore[arg-type]
    return Chart(**{**chart, "series": lines, "surface": surface})  # type: ignore[arg-type]


def write_pages(results: dict[str, dict[str, object]]) -> None:
    """Numbers into both pages, pictures beside them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for language, page in enumerate(PAGES):
        if page.exists():
            page.write_text(filled(page.read_text(encoding="utf-8"), values_of(results, language)), encoding="utf-8")
    for chapter in results.values():
        for name, chart in chapter["charts"].items():  # type: ignore[attr-defined]
            for language, ending in enumerate((".svg", ".zh.svg")):
                (IMAGES / f"{name}{ending}").write_text(svg(restored(chart), language), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few seeds, short runs; the pages stay as they are")
    parser.add_argument("--only", help="chapters, with commas")
    parser.add_argument("--pages", action="store_true", help="write the pages from what was measured")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    given = parser.parse_args()
    where = RESULTS.with_name("measured-quick.json") if given.quick else RESULTS
    results = json.loads(where.read_text(encoding="utf-8")) if where.exists() else {}
    if not given.pages:
        from tour_chapters import CHAPTERS, Size

        size = Size(2, 0.2, 0.3, given.data) if given.quick else Size(4, 1.0, 3.0, given.data)
        for name in given.only.split(",") if given.only else CHAPTERS:
            began = time.perf_counter()
            chapter = CHAPTERS[name](size)
            if not chapter.values:
                continue  # its data are not here: what was measured before stays
            results[name] = {**asdict(chapter), "seconds": round(time.perf_counter() - began, 1)}
            print(f"{name}: {results[name]['seconds']} s", flush=True)
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_text(json.dumps(results, ensure_ascii=False, indent=0), encoding="utf-8")
    if not given.quick:
        write_pages(json.loads(where.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
