"""Templates and static files: how a page is made from a name and what it shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workingpapers.core.figure import amount, seeds_svg
from workingpapers.core.types import Claim, Evidence
from workingpapers.hub.hub import Hub
from workingpapers.hub.settings import Settings
from workingpapers.hub.web import board, figures
from workingpapers.hub.web.assets import Assets
from workingpapers.hub.web.mathml import maths, noted, shown

THEMES = ("light", "dark")


def picture(claim: Claim, evidence: Evidence) -> Markup:
    """The seeds as SVG; everything in it is escaped where it is drawn."""
    return Markup(seeds_svg(claim, evidence))


class Site:
    """What every page needs: settings, templates, addresses of static files."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.assets = Assets()
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
            finalize=lambda value: shown(value) if type(value) is str else value,
        )
        self._templates.filters |= {"maths": maths, "noted": noted, "day": figures.day}
        self._templates.globals |= {
            "asset": self.assets.url,
            "base_url": settings.base_url,
            "f": figures,
            "fields": board.fields,
            "picture": picture,
            "amount": amount,
        }

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **shown: Any,
    ) -> HTMLResponse:
        """Render a template for this reader."""
        theme = request.cookies.get("theme", "")
        query = f"?{request.url.query}" if request.url.query else ""
        body = self._templates.get_template(template).render(
            theme=theme if theme in THEMES else "",
            path=request.url.path,
            here=request.url.path + query,
            **{"query": "", **shown},
        )
        vary = {"Vary": "Cookie", "Cache-Control": "private, no-cache"}
        return HTMLResponse(body, status, {**vary, **(headers or {})})


def site_of(request: Request) -> Site:
    """The site this request came to."""
    return cast(Site, request.app.state.site)


def hub_of(request: Request) -> Hub:
    """The hub behind it."""
    return cast(Hub, request.app.state.hub)
