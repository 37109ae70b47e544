"""Subscribing to letters: the box on every page, what to choose from, and the second yes.

The answer to an address is the same whether or not the hub knows it. Opening a link changes
nothing, since mail scanners open them: a button does.
"""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from workingpapers.hub.hub import Hub
from workingpapers.hub.mail import wishes
from workingpapers.hub.mail.wishes import Wish
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.web import forgery
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import reader_of, require_reader
from workingpapers.hub.web.signing import PRIVATE, Mail, Secret
from workingpapers.hub.web.site import Site

TOPICS = 40  # to choose from at once; any other is a link on its own page

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

Short = Annotated[str, Query(max_length=20)]
Text = Annotated[str, Query(max_length=1000)]
USED_UP = "This link is used up or too old. If you pressed its button before, letters will come."


@router.get("/newsletter")
def choose(
    request: Request,
    hub: Papers,
    site: Pages,
    cadence: Short = "daily",
    kind: Short = "edition",
    query: Text = "",
) -> Response:
    """What can be mailed; a search or a topic to begin with may come in the address."""
    told = kind == "edition" or query.strip()
    return _choose(request, hub, site, [wishes.wish(cadence, kind, query)] if told else [])


def _choose(
    request: Request, hub: Hub, site: Site, wished: list[Wish], fault: str = "", email: str = ""
) -> Response:
    asked = [wish.query for wish in wished if wish.kind == "topic"]
    return site.page(
        request,
        "newsletter.html",
        status=400 if fault else 200,
        cadence=wished[0].cadence if wished else "daily",
        edition=any(wish.kind == "edition" for wish in wished),
        search=next((wish.query for wish in wished if wish.kind == "search"), ""),
        asked=asked,
        topics=list(dict.fromkeys((*asked, *hub.topics(TOPICS)))),
        note=hub.mail.note,
        fault=fault,
        email=email,
    )


def guarded(request: Request, token: Annotated[str, Form(max_length=200)] = "") -> Account | None:
    """Who subscribes; None for a passer-by.

    The box is on every page, and those of passers-by should stay the same from one time to the
    next, so theirs carries no token. Nor does it act in anybody's name: an address gets a letter
    at their asking, as it would at any program's.

    Raises:
        HTTPException: 403; the form comes from elsewhere, or without this reader's token.
    """
    forgery.same_site(request)
    if reader_of(request) is None:
        return None
    forgery.checked(request, token)
    return require_reader(request)


@router.post("/newsletter")
def subscribe(
    request: Request,
    hub: Papers,
    site: Pages,
    later: BackgroundTasks,
    reader: Annotated[Account | None, Depends(guarded)],
    email: Mail = "",
    cadence: Annotated[str, Form(max_length=20)] = "daily",
    edition: Annotated[bool, Form()] = False,
    topic: Annotated[list[str] | None, Form(max_length=wishes.MOST)] = None,
    search: Annotated[str, Form(max_length=1000)] = "",
    zone: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Mail a link to confirm with; a reader who is signed in needs none."""
    wished = [wishes.wish(cadence, "edition")] if edition else []
    wished += [wishes.wish(cadence, "topic", one) for one in topic or ()]
    wished += [wishes.wish(cadence, "search", search)] if search.strip() else []
    if not wished:
        return _choose(request, hub, site, [], "Choose at least one thing.", email)
    for wish in wished:
        known(hub, wish)
    spend(request, "subscribe", reader)
    if reader:
        hub.mail.subscribing.subscribe(reader, wished, zone=zone)
        return RedirectResponse("/account#letters", 303)
    try:
        letter = hub.mail.subscribing.ask(email, wished, zone=zone)
    except ValueError as error:
        return _choose(request, hub, site, wished, str(error), email)
    if letter:  # after the answer, so that its time says nothing either
        later.add_task(hub.mail.subscribing.deliver, letter)
    return RedirectResponse("/newsletter/asked", 303)


def known(hub: Hub, wish: Wish) -> Wish:
    """The wish, where it can ever bring anything.

    Raises:
        Mistaken: no paper has this topic.
    """
    if wish.kind == "topic" and not hub.papers(1, topic=wish.query).total:
        raise Mistaken(f"No paper here has the topic “{wish.query}”.")
    return wish


@router.get("/newsletter/asked")
def asked(request: Request, hub: Papers, site: Pages) -> Response:
    """What to do next; the same for every address."""
    return site.page(request, "newsletter-asked.html", headers=PRIVATE, note=hub.mail.note)


@router.get("/newsletter/confirm")
def confirm_page(
    request: Request, hub: Papers, site: Pages, key: Annotated[str, Query(max_length=100)] = ""
) -> Response:
    """Show what was asked for, and a button; nothing is used up."""
    waiting = hub.mail.subscribing.waiting(key)
    return site.page(
        request,
        "newsletter-confirm.html",
        status=200 if waiting else 400,
        headers=PRIVATE,
        key=key,
        waiting=waiting,
        fault="" if waiting else USED_UP,
    )


@router.post("/newsletter/confirm", dependencies=[checked])
def confirm(request: Request, hub: Papers, site: Pages, key: Secret = "") -> Response:
    """Say yes the second time: from now on letters come."""
    spend(request, "code")
    done = hub.mail.subscribing.confirm(key)
    if done is None:
        return site.page(
            request,
            "newsletter-confirm.html",
            status=400,
            headers=PRIVATE,
            key="",
            waiting=None,
            fault=USED_UP,
        )
    return RedirectResponse(f"/newsletter/manage/{done.subscriber.key}?new=1", 303)
