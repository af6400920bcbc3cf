"""A cluster's id, typed by the operator before what cannot be taken back."""

from __future__ import annotations

from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode


def typed_id(app: App, cluster_id: str, confirm: str | None, *, look: str, done: str = "made") -> None:
    """Return if the operator has typed the old cluster's id, or given it with --yes and --confirm.

    Raises CommandError: 2 where nobody can be asked, 5 for another id. `look` is the command that shows it; nothing was `done`.
    """
    import sys

    if confirm is None and not app.settings.yes and sys.stdin.isatty() and sys.stderr.isatty():
        print(
            f"type the first 8 digits of the old cluster's id ({cluster_id[:8]}) to go on: ", end="", file=sys.stderr, flush=True
        )
        confirm = sys.stdin.readline().strip()
    elif confirm is not None and not app.settings.yes:
        raise usage_error(
            "--confirm takes the place of what is typed, and --yes that of the question: give both",
            f"repeat the command with --yes --confirm {cluster_id}",
        )
    elif confirm is None or not app.settings.yes:
        raise usage_error(
            "this needs the old cluster's id typed, and there is no terminal to ask on",
            f"repeat the command with --yes --confirm {cluster_id}",
        )
    if confirm not in (cluster_id, cluster_id[:8]):
        raise CommandError(
            f"{confirm!r} is not the id of the old cluster, {cluster_id}; nothing was {done}",
            code=ExitCode.REFUSED,
            next_step=f"look with `{look}`, and give --confirm {cluster_id}",
        )
