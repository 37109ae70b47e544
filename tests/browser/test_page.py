"""What a reader does, in a real browser."""

import pytest

pytestmark = pytest.mark.browser

VIEWS = {
    "edition": "/",
    "search": "/search?q=vision+transformers",
    "nothing found": "/search?q=",
    "paper": "/papers/1808.00758",
    "listed paper": "/papers/2504.09377",
    "evidence": "/evidence",
    "verdicts": "/about/verdicts",
    "api": "/api/docs",
}

GROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(252, 252, 251)", "rgb(19, 21, 20)"


def axe(page, context=None):
    """What axe-core objects to on a page."""
    from axe_playwright_python.sync_playwright import Axe

    return Axe().run(page, context=context).response["violations"]


def test_open_search_open_a_paper_and_see_its_verdict(opened):
    page = opened("/")
    assert page.locator("article.card").count() == 39
    page.get_by_role("searchbox", name="Search papers").fill("attentional aggregation")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="Robust Attentional Aggregation").click()
    assert page.url.endswith("/papers/1808.00758")
    assert page.get_by_role("heading", level=1).inner_text().startswith("Robust Attentional")
    claim = page.locator("#claim-claim-1")
    assert claim.get_by_role("link", name="holds here").is_visible()
    picture = claim.get_by_role("img")
    assert picture.is_visible() and picture.locator("circle").count() == 10
    claim.get_by_role("link", name="holds here").click()
    assert page.url.endswith("/about/verdicts#holds")


def test_board_narrows_and_leads_to_the_claim(opened):
    page = opened("/evidence")
    page.get_by_role("link", name="undecided 1").click()
    rows = page.get_by_role("row").filter(has=page.get_by_role("cell"))
    assert rows.count() == 1
    rows.get_by_role("link", name="Not All Patches").click()
    assert page.locator("#claim-claim-2").is_visible()


@pytest.mark.parametrize("scripted", [True, False])
def test_toggle_of_light_and_dark_lasts(opened, scripted):
    page = opened("/evidence", java_script_enabled=scripted)
    ground = page.locator("body")

    def colour():
        return ground.evaluate("e => getComputedStyle(e).backgroundColor")

    assert colour() == LIGHT
    page.get_by_role("button", name="Dark theme").click()
    assert page.url.endswith("/evidence")
    assert colour() == DARK
    page.goto("/")
    assert colour() == DARK
    page.get_by_role("button", name="Light theme").click()
    assert colour() == LIGHT
    page.get_by_role("button", name="Follow the system").click()
    assert page.context.cookies() == []


def test_the_first_paint_has_the_chosen_theme(opened):
    page = opened("/", theme="light")
    page.keyboard.press("t")
    assert page.evaluate(GROUND) == DARK
    html = page.request.get("/").text()
    assert 'data-theme="dark"' in html.partition("<head>")[0]


def test_a_dark_system_needs_no_cookie(opened):
    assert opened("/", theme="dark").evaluate(GROUND) == DARK


def test_everything_by_keyboard(opened):
    page = opened("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for key in "jjk":
        page.keyboard.press(key)
    focused = "document.activeElement.closest('.card h2').innerText"
    assert page.evaluate(focused).startswith("Calibrating")
    page.keyboard.press("j")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("o")
    page.wait_for_url("**/papers/2504.09377")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("jk?t")  # letters, here
    assert page.evaluate("document.activeElement.value") == "jk?t"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    assert dialog.is_visible()
    page.keyboard.press("j")  # stays in the dialog
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.keyboard.press("/")
    page.keyboard.type("vision transformers")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=*")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/papers/*")


def test_without_javascript_every_step_is_there(opened):
    page = opened("/", java_script_enabled=False)
    page.get_by_role("searchbox").fill("attentional aggregation")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("link", name="Robust Attentional Aggregation").click()
    assert page.get_by_role("link", name="holds here").first.is_visible()
    assert page.get_by_role("button", name="Keyboard").count() == 0  # no dead controls
    page.get_by_role("link", name="Evidence", exact=True).click()
    assert page.get_by_role("heading", level=1).inner_text() == "Evidence"


def test_copy_gives_the_bibtex(opened):
    page = opened("/papers/1808.00758", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("region", name="BibTeX").get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("@misc{yang2018robust,")


@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_the_window(opened, view, width):
    page = opened(VIEWS[view], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_moves_while_the_page_loads(opened):
    page = opened("/")
    page.wait_for_load_state("networkidle")
    moved = page.evaluate(
        """() => new Promise(done => {
            let sum = 0;
            new PerformanceObserver(list => list.getEntries().forEach(e => { sum += e.value; }))
                .observe({type: "layout-shift", buffered: true});
            setTimeout(() => done(sum), 200);
        })"""
    )
    assert moved == 0


def test_lines_are_no_longer_than_one_reads_with_ease(opened):
    page = opened("/")
    longest = page.evaluate(
        """() => {
            const text = document.querySelector(".summary").firstChild;
            const range = document.createRange();
            const counts = {};
            for (let i = 0; i < text.length; i++) {
                range.setStart(text, i);
                range.setEnd(text, i + 1);
                const line = Math.round(range.getBoundingClientRect().top);
                counts[line] = (counts[line] || 0) + 1;
            }
            return Math.max(...Object.values(counts));
        }"""
    )
    assert 50 <= longest <= 80


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(opened, view, width, theme):
    page = opened(VIEWS[view], width=width, theme=theme)
    found = axe(page)
    assert [
        (v["id"], v["impact"], [n["html"] for n in v["nodes"]][:3])
        for v in found
        if v["impact"] in ("serious", "critical")
    ] == []


def test_the_dialog_is_accessible_too(opened):
    page = opened("/about/verdicts")
    page.keyboard.press("?")
    found = axe(page, "dialog")
    assert [v["id"] for v in found] == []


def test_printing_shows_whole_summaries_and_no_controls(opened):
    page = opened("/")
    page.emulate_media(media="print")
    assert not page.get_by_role("searchbox").is_visible()
    assert page.locator(".strip").first.is_visible()
