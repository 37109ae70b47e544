"""What only a browser shows of the rankings: that they fit, and that a place opens."""

import pytest


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("path", ["/trending", "/week/2026-W01", "/ranking", "/changes"])
def test_rankings_fit_their_window(opened, path, width):
    page = opened(path, width=width)
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def test_a_place_opens_by_keyboard_without_javascript(opened):
    page = opened("/trending", java_script_enabled=False)
    summary = page.locator("details.why summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.why[open] code").first.is_visible()
    assert "pieces of evidence" in page.locator("details.why[open]").first.inner_text()
