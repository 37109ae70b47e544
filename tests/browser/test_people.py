"""What only a browser shows of votes and forms: the key, no reload, contrast and labels."""

import re
from itertools import count

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.browser

PAPER = "/papers/1808.00758"
numbers = count(1)


@pytest.fixture
def signed_in(opened, outbox):
    """A page of a new reader, signed in with the code of a real letter."""

    def visit(path="/", **options):
        page = opened("/sign-in", **options)
        name = f"reader{next(numbers)}"
        page.get_by_label("Your mail address").fill(f"{name}@lab.example")
        page.get_by_role("button", name="Mail me a link").click()
        page.get_by_label("Code").wait_for()
        page.get_by_label("Code").fill(code_for(f"{name}@lab.example"))
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Your account").wait_for()
        page.goto(path)
        return page

    def code_for(email):
        letters = [p.read_text() for p in sorted(outbox.glob("*.eml"))]
        theirs = [text for text in letters if email in text]
        return re.search(r"code there: (\d{3} \d{3})", theirs[-1])[1]

    return visit


@pytest.mark.parametrize("scripted", [True, False])
def test_a_vote_is_cast_and_taken_back(signed_in, scripted):
    page = signed_in(PAPER, java_script_enabled=scripted)
    button = page.locator(".opening .vote button").first
    before = int(button.inner_text().split()[-1])
    button.click()
    page.locator('.opening .vote button[aria-pressed="true"]').wait_for()
    page.reload()
    assert int(button.inner_text().split()[-1]) == before + 1
    button.click()
    page.locator('.opening .vote button[aria-pressed="false"]').wait_for()
    page.reload()
    assert int(button.inner_text().split()[-1]) == before


def test_u_votes_for_the_paper_in_hand(signed_in):
    page = signed_in("/")
    page.keyboard.press("j")
    page.keyboard.press("u")
    page.locator('.card .vote [aria-pressed="true"]').wait_for()
    assert page.url.endswith("/")
    assert page.locator('.vote [aria-pressed="true"]').count() == 1
    page.keyboard.press("u")
    page.locator('.vote [aria-pressed="true"]').wait_for(state="detached")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_pages_of_people_are_accessible_and_fit(signed_in, theme, width):
    page = signed_in("/account", theme=theme, width=width)
    for path in ("/account", "/sign-in", "/sign-in/code", "/submit", PAPER):
        page.goto(path)
        found = Axe().run(page).response["violations"]
        assert found == [], (path, [(item["id"], item["nodes"][0]["html"]) for item in found])
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, path
