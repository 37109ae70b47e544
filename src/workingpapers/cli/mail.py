"""Commands on mail: the digest, and what comes back of it."""

import os
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape

from workingpapers.cli.console import err, out, print_json, progress, table
from workingpapers.cli.hub import Json, opened
from workingpapers.core.codec import encode

if TYPE_CHECKING:
    from workingpapers.hub.hub import Hub
    from workingpapers.hub.store.digests import Digest
    from workingpapers.hub.store.subscribers import Cadence

CADENCES = ("daily", "weekly")
PATIENCE = 60.0  # seconds that a mail server may be away before the command gives up
POLL = 2.0


def digest(
    cadence: Annotated[str | None, typer.Option(help="daily or weekly; both unless given.")] = None,
    day: Annotated[
        str | None, typer.Option(help="The day, or one of the week; the last that is over.")
    ] = None,
    send: Annotated[bool, typer.Option(help="Send what is due.")] = True,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until stopped.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say how things stand.")] = False,
    json: Json = False,
) -> None:
    """Make the issues of the digest that are due, once, and send what is due to their readers."""
    if cadence not in (None, *CADENCES):
        raise ValueError(f"--cadence: expected daily or weekly, got {cadence!r}")
    try:
        when = date.fromisoformat(day) if day else None
    except ValueError:
        raise ValueError(f"--day: expected a day such as 2025-12-31, got {day!r}") from None
    with opened() as hub:
        if status:
            _status(hub, json)
            return
        made = [
            issue
            for one in (CADENCES if cadence is None else (cadence,))
            if (issue := hub.mail.digests.make(cast("Cadence", one), when)) is not None
        ]
        if not hub.mail.out:
            err.print(f"[dim]{escape(hub.mail.note)}[/]")
        elif "WORKINGPAPERS_URL" not in os.environ:
            where = hub.settings.base_url
            err.print(f"WORKINGPAPERS_URL is not set: links in mails lead to {where}")
        if send or watch:
            _send(hub, made, watch)
        if json:
            print_json([_plain(hub, issue) for issue in made])
            return
        for issue in made:
            _say(hub, issue)
        if not made:
            out.print("no issue: a day of the weekend without an edition")


def _send(hub: "Hub", made: "list[Digest]", watch: bool) -> None:
    """Send until nothing is due, or for ever."""
    from workingpapers.hub.mail.smtp import Down

    sending, since = hub.mail.sending, 0.0
    try:
        with progress() as bars:
            bar = {}
            for issue in made:
                theirs = hub.mail.progress(issue)
                name = f"{issue.cadence} {issue.period}"
                bar[issue] = bars.add_task(name, total=theirs.total, completed=theirs.over)
            while True:
                try:
                    done, since = sending.step(), 0.0
                except Down as error:
                    since = since or time.monotonic()
                    if not watch and time.monotonic() - since > PATIENCE:
                        raise RuntimeError(
                            f"the mail server is away ({error}); nothing is lost: run this again"
                        ) from None
                    time.sleep(POLL)
                    continue
                for issue, number in bar.items():
                    theirs = hub.mail.progress(issue)
                    bars.update(number, total=theirs.total, completed=theirs.over)
                if done:
                    continue
                if not watch:
                    return
                for issue in hub.mail.digests.make_due():
                    if issue not in bar and hub.mail.progress(issue).total:
                        name = f"{issue.cadence} {issue.period}"
                        bar[issue] = bars.add_task(name, total=hub.mail.progress(issue).total)
                time.sleep(POLL)
    finally:
        sending.close()


def _say(hub: "Hub", issue: "Digest") -> None:
    theirs = hub.mail.progress(issue)
    said = [f"{theirs.total} readers", f"{theirs.sent} sent"]
    said += [f"{theirs.failed} failed"] if theirs.failed else []
    said += [f"{theirs.dropped} left meanwhile"] if theirs.dropped else []
    waiting = theirs.total - theirs.over
    said += [f"{waiting} later"] if waiting else []
    out.print(f"{issue.cadence} {issue.period}: {', '.join(said)}")


def _plain(hub: "Hub", issue: "Digest") -> dict[str, Any]:
    return {
        "cadence": issue.cadence,
        "period": issue.period,
        "made": issue.made.isoformat(),
        **cast("dict[str, Any]", encode(hub.mail.progress(issue))),
    }


def _status(hub: "Hub", json: bool) -> None:
    found = hub.mail.status()
    if json:
        print_json(
            {
                "subscribers": found.subscribers,
                "issues": [_plain(hub, issue) for issue, _ in found.issues],
                "letters": found.letters,
                "deliveries": found.deliveries,
                "suppressed": found.suppressed,
                "notes": [{"note": note, "count": count} for note, count in found.notes],
                "server": hub.mail.out,
            }
        )
        return
    out.print(f"{found.subscribers} subscribers")
    if not hub.mail.out:
        out.print(hub.mail.note)
    for issue, _ in found.issues:
        _say(hub, issue)
    rows = [
        (name, *(str(counts.get(state, 0)) for state in STATES))
        for name, counts in (("letters", found.letters), ("digests", found.deliveries))
    ]
    out.print(table("", *STATES, rows=rows))
    for reason, number in found.suppressed.items():
        out.print(f"{number} addresses take no mail: {reason}")
    for note, number in found.notes:
        out.print(f"{number} × {escape(note)}", soft_wrap=True)


STATES = ("waiting", "due", "sending", "sent", "failed", "dropped")


def bounces(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH…", help="A message, an mbox, a Maildir; - reads one message."),
    ] = None,
    forgive: Annotated[str | None, typer.Option(help="Let mails go to this address again.")] = None,
    json: Json = False,
) -> None:
    """Read what came back: reports of bounces, complaints, and mails that unsubscribe."""
    from workingpapers.hub.mail import bounces as reading

    if not paths and not forgive:
        raise ValueError("give a path, - for one message on the standard input, or --forgive")
    with opened() as hub:
        if forgive:
            known = hub.mail.forgive(forgive)
            err.print("mails go there again" if known else "mails did go there")
        outcomes: dict[str, int] = {}
        for path in paths or ():
            read = (
                iter([reading.read(sys.stdin.buffer)])
                if path == "-"
                else reading.messages(Path(path))
            )
            for outcome, number in hub.mail.returned(read).outcomes.items():
                outcomes[outcome] = outcomes.get(outcome, 0) + number
    if json:
        print_json(outcomes)
    elif paths:
        said = ", ".join(f"{number} {SAID[outcome]}" for outcome, number in outcomes.items())
        out.print(said or "no message")


SAID = {
    "suppressed": "addresses that take no mail from now on",
    "struck": "passing failures",
    "complaint": "complaints",
    "left": "who unsubscribed",
    "delayed": "that are only late",
    "unknown": "about nothing that is known here",
}
