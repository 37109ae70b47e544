"""The commands, gathered; and how a mistake is told: one line, exit status 1 or 2."""

import os
import sys

import typer

from workingpapers.cli import hub, mail, methods, people, restore, scaffold, sync, working
from workingpapers.cli.console import complain

app = typer.Typer(
    name="papers",
    help="The Daily Papers page whose papers run: find papers, import methods, check claims.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("list")(methods.list_)
app.command()(methods.show)
app.command()(methods.check)
app.command()(methods.bench)
app.command()(methods.pictures)
app.command()(scaffold.new)
app.command("import")(hub.import_)
app.command()(hub.search)
app.command()(hub.serve)
app.command()(working.work)
app.command()(restore.export)
app.command()(restore.restore)
app.command()(people.admin)
app.command()(mail.digest)
app.command()(mail.bounces)
app.add_typer(sync.sync, name="sync", help="What the hub fetches again and again.")
app.add_typer(hub.index, name="index", help="The search indexes.")
app.add_typer(methods.data, name="data", help="Data sets and models that checks use.")


def main() -> None:
    """Run the command line; what a user can mend is told in one line.

    `PAPERS_DEBUG=1` shows the traceback instead.
    """
    try:
        app()
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("PAPERS_DEBUG"):
            raise
        complain(error.args[0] if isinstance(error, KeyError) and error.args else error)
        sys.exit(1)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)
