"""Every view at both widths in both themes; and long work, live, as only a browser shows it."""

from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from axe_playwright_python.sync_playwright import Axe

from workingpapers.hub.people.signing import Signing
from workingpapers.hub.store import jobs as rows
from workingpapers.hub.store.database import Store

pytestmark = pytest.mark.browser

VIEWS = [
    "/week/2026-W01", "/month/2025-12", "/trending?window=month", "/ranking", "/changes",
    "/organizations/ziplab", "/authors/Bo%20Yang", "/topics", "/people/chief",
    "/people/chief?list=reading",
]  # fmt: skip
DESK = ["/admin", "/admin/jobs", "/admin/votes", "/account/address"]
JUMPS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def now():
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def store(address, home):
    """The database of the hub that is served."""
    store = Store.open(f"sqlite:///{home / 'hub.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def chief(opened, store):
    """A page of the administrator."""

    def visit(path, **options):
        key = Signing(store, now, "open").first_link(again=True)
        page = opened(f"/first?key={key}", **options)
        page.get_by_label("Your mail address").fill("chief@lab.example")
        page.get_by_role("main").get_by_role("button").click()
        page.get_by_label("Name", exact=True).fill("chief")
        page.get_by_role("button", name="Save").click()
        page.goto(path)
        return page

    return visit


@contextmanager
def work(store, number):
    """A worker that a test moves."""
    with store.writing() as db:
        assert rows.take(db, "test", now()).id == number

    def tell(**values):
        with store.writing() as db:
            rows.renew(db, number, "test", now(), **values)

    yield tell
    with store.writing() as db:
        if not rows.find(db, number).over:
            rows.end(db, number, "done", "2 papers: 2 new, 0 changed, 0 known", now())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_every_view_fits_and_can_be_read(chief, width, theme):
    page = chief("/", width=width, theme=theme)
    for path in [*VIEWS, *DESK]:
        page.goto(path)
        assert page.get_by_role("heading", level=1).is_visible(), path
        assert page.evaluate(JUMPS), path
        if (width, theme) in ((360, "dark"), (1440, "light")):  # the two others mix the same parts
            found = Axe().run(page).response["violations"]
            assert found == [], (path, [(v["id"], v["nodes"][0]["html"]) for v in found])


def test_a_job_is_started_by_keyboard_and_its_bar_moves_by_itself(chief, store):
    page = chief("/admin/jobs", width=360)
    page.get_by_label("arXiv numbers").focus()
    page.keyboard.type("1808.00758, hep-th/9901001")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/jobs/*")
    number = int(page.url.rpartition("/")[2])
    with work(store, number) as tell:
        page.get_by_text("running", exact=True).wait_for()
        page.evaluate("window.stayed = true")
        tell(phase="papers", done=1, total=2, log="line one\n<b>line two</b>")
        page.get_by_text("1 of 2 papers").wait_for()
        assert page.locator("progress").evaluate("bar => [bar.value, bar.max]") == [1, 2]
        assert "<b>line two</b>" in page.locator("[data-log]").inner_text()
        assert page.evaluate("window.stayed") is True
        found = Axe().run(page).response["violations"]
        assert found == [], [(v["id"], v["nodes"][0]["html"]) for v in found]
        assert page.evaluate(JUMPS)
    page.get_by_text("2 papers: 2 new").wait_for()
    assert page.locator("progress").count() == 0


def test_without_javascript_the_page_of_a_job_reloads_itself_and_cancels(chief, store):
    page = chief("/admin/jobs", java_script_enabled=False)
    page.get_by_label("arXiv numbers").fill("1808.00758")
    page.get_by_role("button", name="Import").click()
    assert page.locator("noscript meta, meta[http-equiv=refresh]").count() == 1
    number = int(page.url.rpartition("/")[2])
    with work(store, number) as tell:
        tell(phase="papers", done=3, total=4)
        page.get_by_text("3 of 4 papers").wait_for(timeout=9000)  # by itself, after five seconds
        page.get_by_role("button", name="Cancel").click()
        with store.reading() as db:
            assert rows.find(db, number).cancel
        with store.writing() as db:
            rows.end(db, number, "cancelled", "Cancelled.", now())
    page.get_by_role("link", name="Reload").click()
    assert page.get_by_text("Cancelled.").is_visible()


def test_keys_of_the_page_do_nothing_while_somebody_types(chief):
    page = chief("/admin/jobs")
    field = page.get_by_label("arXiv numbers")
    field.focus()
    page.keyboard.type("/jkut?")
    assert field.input_value() == "/jkut?"
    assert not page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
