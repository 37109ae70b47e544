"""What only a browser shows of letters: the box, the buttons, the letter in its frame."""

import re
from email import message_from_bytes
from email.policy import default
from itertools import count

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.browser

numbers = count(1)


@pytest.fixture
def link(outbox):
    """The link in the latest letter to an address, as a path."""

    def found(email):
        letters = [
            message_from_bytes(path.read_bytes(), policy=default)
            for path in sorted(outbox.glob("*.eml"))
        ]
        theirs = [letter.get_content() for letter in letters if letter["To"] == email]
        return re.search(r"http://[^/\s]+(/newsletter/\S+)", theirs[-1])[1]

    return found


@pytest.mark.parametrize("scripted", [True, False])
def test_the_box_subscribes_in_two_steps_and_one_click_leaves(opened, link, scripted):
    page = opened("/evidence", java_script_enabled=scripted, timezone_id="Europe/Paris")
    address = f"box{next(numbers)}@lab.example"
    page.get_by_label("Get trending papers in your email inbox").fill(address)
    page.get_by_role("button", name="Subscribe").click()
    page.get_by_role("heading", name="Look into your mail").wait_for()
    page.goto(link(address))
    page.get_by_role("button", name="Yes, mail me this").click()
    page.get_by_role("heading", name="Your letters").wait_for()
    zone = "Europe/Paris" if scripted else "UTC"
    lead = page.locator(".lead").inner_text()
    assert f"letters come to {address}" in lead and zone in lead
    page.get_by_role("link", name="Leave all letters").click()
    page.get_by_role("button", name="Mail me nothing more").click()
    page.get_by_role("heading", name="No more letters").wait_for()


def test_a_letter_is_shown_in_a_frame_whose_links_open_outside_of_it(chromium, address):
    # Not with `opened`: the browser complains of the test's own looking into the frame.
    context = chromium.new_context(base_url=address)
    page = context.new_page()
    page.goto("/newsletter")
    page.get_by_role("link", name="See what a letter looks like").click()
    frame = page.frame_locator("iframe")
    title = frame.get_by_role("heading", level=3).first
    title.wait_for()
    assert title.evaluate("node => getComputedStyle(node).fontWeight") == "600"  # it has its style
    with page.expect_popup() as popup:
        title.get_by_role("link").click()
    popup.value.wait_for_load_state()
    assert "/papers/" in popup.value.url and popup.value.locator("h1").count() == 1
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_pages_of_letters_are_accessible_and_fit(opened, link, theme, width):
    page = opened("/newsletter", theme=theme, width=width)
    address = f"axe{next(numbers)}@lab.example"
    page.locator("main").get_by_label("Your mail address").fill(address)
    page.locator("main").get_by_role("button", name="Subscribe").click()
    page.get_by_role("heading", name="Look into your mail").wait_for()
    confirm = link(address)

    def check():
        found = Axe().run(page).response["violations"]
        assert found == [], (page.url, [(v["id"], v["nodes"][0]["html"]) for v in found])
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, page.url

    for path in ("/", "/newsletter?kind=topic&query=x", "/newsletter/preview", confirm):
        page.goto(path)
        check()
    page.get_by_role("button", name="Yes, mail me this").click()
    page.get_by_role("heading", name="Your letters").wait_for()
    check()
    page.get_by_role("link", name="Leave all letters").click()
    check()
