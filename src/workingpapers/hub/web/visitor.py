"""What a page shows of the reader who opened it; looked up only where a template asks."""

from functools import cached_property

from fastapi import Request
from fastapi.responses import Response

from workingpapers.hub.people import tokens
from workingpapers.hub.people.community import Marks
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.web import cookies, forgery
from workingpapers.hub.web.reader import reader_of
from workingpapers.hub.web.site import hub_of

VISIT = 24 * 60 * 60  # seconds that the cookie of a passer-by's form lives


class Visitor:
    """One reader of one page."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._visit = ""  # a new cookie, where a form needs one

    @cached_property
    def account(self) -> Account | None:
        """Who it is; None for a passer-by."""
        return reader_of(self._request)

    @cached_property
    def marks(self) -> Marks:
        """What they voted for and keep."""
        if self.account is None:
            return Marks()
        return hub_of(self._request).people.community.marks(self.account)

    @cached_property
    def token(self) -> str:
        """The token of the forms on this page."""
        secret = forgery.secret_of(self._request)
        if not secret:
            secret = self._visit = tokens.token()
        return forgery.token(secret)

    def remember(self, response: Response) -> None:
        """Set the cookie that the forms on this page need."""
        if self._visit:
            cookies.keep(response, self._request, cookies.VISIT, self._visit, VISIT)
