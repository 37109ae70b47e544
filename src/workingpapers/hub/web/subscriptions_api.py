"""Version 1 of the JSON API, the part for one's own subscriptions to letters."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from workingpapers.hub.mail import wishes
from workingpapers.hub.mail.subscribing import Wanted
from workingpapers.hub.store.subscribers import Cadence, Kind, Subscription
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.newsletter import known
from workingpapers.hub.web.pages import Papers
from workingpapers.hub.web.people_api import REFUSED, WRITE, bearer
from workingpapers.hub.web.reader import Person, Writer

router = APIRouter(prefix="/api/v1/me/subscriptions", tags=["v1 people"])


class WishJson(BaseModel):
    """One thing to be mailed."""

    cadence: Cadence
    kind: Kind
    query: Annotated[str, Field(max_length=1000)] = ""  # the topic or the search


class SubscriptionJson(WishJson):
    """One thing that is mailed."""

    id: int


class SubscriptionsJson(BaseModel):
    """All that is mailed to one's address, from which hour of one's day on."""

    zone: str
    hour: int
    subscriptions: list[SubscriptionJson]


@router.get("", dependencies=[bearer], responses=REFUSED)
def subscriptions(hub: Papers, person: Person, response: Response) -> SubscriptionsJson:
    """What is mailed to one's address."""
    response.headers["Cache-Control"] = "no-store"
    return as_subscriptions(hub.mail.subscribing.found(person))


@router.post("", status_code=201, **WRITE)
def subscribe(request: Request, hub: Papers, writer: Writer, wish: WishJson) -> SubscriptionsJson:
    """Have one thing more mailed; again changes nothing."""
    spend(request, "write", writer)
    wished = known(hub, wishes.wish(wish.cadence, wish.kind, wish.query))
    return as_subscriptions(hub.mail.subscribing.subscribe(writer, [wished], "program"))


@router.delete("/{subscription_id}", status_code=204, **WRITE)
def drop(
    request: Request,
    hub: Papers,
    writer: Writer,
    subscription_id: Annotated[int, Path(ge=1, lt=2**31)],
) -> None:
    """Have one thing less mailed."""
    spend(request, "write", writer)
    if not hub.mail.subscribing.drop(writer, subscription_id):
        raise HTTPException(404, "There is no such subscription.")


def as_subscriptions(found: Wanted | None) -> SubscriptionsJson:
    """What somebody gets, as the API gives it."""
    if found is None:
        return SubscriptionsJson(zone=wishes.ZONE, hour=wishes.HOUR, subscriptions=[])
    return SubscriptionsJson(
        zone=found.subscriber.zone,
        hour=found.subscriber.hour,
        subscriptions=[as_subscription(one) for one in found.subscriptions],
    )


def as_subscription(one: Subscription) -> SubscriptionJson:
    """One of them."""
    return SubscriptionJson(id=one.id, cadence=one.cadence, kind=one.kind, query=one.query)
