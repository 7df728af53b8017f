"""Every page in a browser: drawn, offline, as wide as the window, legible and to be used by keyboard alone."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import handful
from handful.cli.watch import server_of
from handful.training.watch.folder import RunFolder

pytestmark = pytest.mark.slow
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium")
ROOT = Path(__file__).parents[2]
TEXTS = [f"{word} film that I will {kept}" for word, kept in (("a fine", "see again"), ("a dull", "forget"))] * 60


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the page of a name, once."""
    folder, pages = tmp_path_factory.mktemp("pages"), dict[str, Path]()

    def of(name):
        if name not in pages:
            pages[name] = PAGES[name](folder / name)
        return pages[name]

    return of


def trained(*data, **options):
    """What makes the report of a short run."""

    def report(out):
        model = options.pop("model", "auto")
        handful.fit(model, *data, out=out, quiet=True, until=options.pop("until", "epochs(3)"), **options)
        return out / "report.html"

    return report


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def labels(out):
    x = numbers(200, 4)
    table = {f"x{k}": x[:, k] for k in range(4)} | {"rude": x[:, 0] > 0, "spam": x[:, 1] > 0}
    run = handful.fit("auto", table, target=["rude", "spam"], out=out, quiet=True, until="epochs(3)")
    return run.path / "report.html"


def sounds(out):
    time = np.arange(4000) / 8000
    waves = [np.sin(2 * np.pi * (300 if k % 2 else 900) * time).astype("float32") for k in range(40)]
    source = handful.open((waves, np.arange(40) % 2), rate=8000)
    return handful.fit("auto", source, out=out, quiet=True, until="epochs(2)").path / "report.html"


def language(out):
    text = out.with_suffix(".txt")
    text.write_text("the sun rises and the sun sets, and the rivers run into the sea. " * 60)
    handful.fit("language(width=16, layers=1)", str(text), out=out, batch=8, lr=0.01, quiet=True, until="steps(20)")
    return out / "report.html"


def compared(out):
    handful.compare("linear", "iris", [1, 16, "full"], epochs=1, budget=20, seeds=1, lrs=[0.1], out=out, quiet=True)
    return out / "report.html"


def tuned(out):
    return handful.advise("linear", "iris", until="epochs(3)").report(out.with_suffix(".html"))


def judged(out):
    run = handful.fit("linear", "iris", out=out, batch=16, lr=0.1, quiet=True, until="epochs(3)")
    return run.evaluation("iris").write(out / "evaluation.html", "iris")


def replayed(out):
    run = handful.fit("cnn", "digits", out=out, batch=64, lr=0.01, quiet=True, until="steps(12)")
    return run.replay(5).write(out / "replay.html")


def side_by_side(out):
    runs = [out / "a", out / "b"]
    for lr, run in zip((0.1, 0.01), runs):
        handful.fit("linear", "iris", out=run, batch=16, lr=lr, quiet=True, until="epochs(3)")
    command = [sys.executable, "-m", "handful.cli", "report", *runs, "--out", out / "both.html"]
    subprocess.run(command, check=True, capture_output=True)
    return out / "both.html"


PAGES = {
    "classes": trained("digits", batch=64, lr=0.01, until="epochs(2)"),
    "numbers": trained("diabetes", batch=64, lr=0.01),
    "labels": labels,
    "texts": trained({"text": TEXTS, "label": ["good", "bad"] * 60}, batch=16, lr=0.01, target="label"),
    "sounds": sounds,
    "language": language,
    "positions": trained((numbers(64, 12, 3), (numbers(64, 12) > 0).astype(int)), model="mlp", batch=16, lr=0.01),
    "compare": compared,
    "tune": tuned,
    "evaluate": judged,
    "replay": replayed,
    "side by side": side_by_side,
}


def seen(browser, address, *, phone, dark, drawn=True):
    """An open page, nothing of which came from elsewhere."""
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
    context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", is_mobile=phone)
    page = context.new_page()
    asked, here = [], address.rpartition("/")[0] if address.startswith("http") else "file:"
    opened = []

    def answer(route):
        opened.append(route) if route.request.is_navigation_request() else None
        if len(opened) > 1 and route is opened[-1]:
            route.fulfill(status=204)  # a page that loads itself again stays as it is while it is judged
        else:
            route.continue_() if route.request.url.startswith(here) else asked.append(route)

    page.route("**/*", answer)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(address)
    if drawn and page.locator(".plot").count():
        page.locator("html[data-drawn=yes]").wait_for(state="attached", timeout=60_000)  # a string would be evaluated
    assert not asked
    assert not said
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    return page


def judge(page):
    """axe-core's rules of WCAG 2.1, contrast among them; and that Tab reaches all that can be operated."""
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    wrong = [(v["id"], node["html"][:200]) for v in found.response["violations"] for node in v["nodes"]]
    assert not wrong


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_legible_and_needs_no_network(browser, made, name):
    path = made(name)
    for phone in (False, True):
        for dark in (False, True):
            page = seen(browser, path.as_uri(), phone=phone, dark=dark)
            judge(page)
            page.context.close()


def test_everything_on_a_report_is_reached_by_keyboard(browser, made):
    page = seen(browser, made("classes").as_uri(), phone=False, dark=False)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.value"))
    for summary in page.locator("summary").all_text_contents():
        assert summary.strip() in reached
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None
    page.locator(".switch input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".switch input").nth(1).is_checked()
    page.context.close()


def test_the_page_of_a_run_that_goes_on(browser, made):
    folder = RunFolder(shutil.copytree(made("evaluate").parent, made("evaluate").parent.with_name("going")))
    (folder.path / "result.json").unlink()
    with server_of(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for phone in (False, True):
            page = seen(browser, f"http://127.0.0.1:{server.server_port}/", phone=phone, dark=phone)
            judge(page)
            page.context.close()
        server.shutdown()


def test_the_docs_site_needs_no_network(browser, tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    subprocess.run(command, cwd=ROOT, check=True, env={"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": ":".join(sys.path)})
    page = seen(browser, (tmp_path / "site" / "index.html").as_uri(), phone=False, dark=False, drawn=False)
    page.keyboard.press("s")  # the search, of a page from a file
    page.wait_for_timeout(500)
    page.keyboard.type("micro-batch")
    page.locator(".md-search-result__item").first.wait_for(timeout=30_000)
    page.context.close()
    beside = {"results": "step", "examples": "digits"}  # pages alike: one of each
    for path in sorted({*(tmp_path / "site").rglob("*.html")} - {tmp_path / "site" / "404.html"}):
        if beside.get(path.parent.name, path.stem) != path.stem:
            continue
        for phone in (False, True):
            page = seen(browser, path.as_uri(), phone=phone, dark=phone, drawn=False)
            judge(page)
            page.context.close()
