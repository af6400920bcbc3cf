"""Dialogs: a change with the leader's verdict and a yes, or one line of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from ravelctl.dashboard.actions import NotDoneError, Plan


class Dialog(ModalScreen[None]):
    """A box in the middle of the screen."""


class ConfirmScreen(Dialog):
    """Shows a plan with what the leader says of it, asks, carries it out and tells what became of it.

    Whom it is about, and the view that it was planned from, are those of the moment when the dialog was opened, whatever the
    screen behind it shows by now.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", show=False),
        Binding("enter,y", "agree", show=False),
        Binding("n,q", "close", show=False),
    ]

    def __init__(self, plan: Plan, told: Callable[[str, bool], None]) -> None:
        """`told` gets the outcome, and whether it failed."""
        super().__init__()
        self._plan = plan
        self._told = told
        self._ready = False
        self._over = False

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(self._plan.title, id="dialog-title", markup=False)
            yield Static("\n".join(self._plan.facts), id="dialog-body", markup=False)
            if self._plan.typed:
                yield Input(id="dialog-typed", placeholder=f"type {self._plan.typed} to confirm")
            yield Static("asking the leader ...", id="dialog-note", markup=False)

    def on_mount(self) -> None:
        self._judge()

    @property
    def text(self) -> str:
        return "\n".join(str(widget.content) for widget in self.query(Static))

    def _note(self, text: str) -> None:
        self.query_one("#dialog-note", Static).update(text)

    @work(exclusive=True)
    async def _judge(self) -> None:
        try:
            verdict = await self._plan.judge()
        except NotDoneError as refusal:
            self._end(str(refusal))
            return
        self.query_one("#dialog-body", Static).update("\n".join((*self._plan.facts, *(("", verdict) if verdict else ()))))
        self._ready = True
        self._note(f"{self._plan.question}   esc-no" if self._plan.typed else f"{self._plan.question}   enter-yes  esc-no")

    @on(Input.Submitted, "#dialog-typed")
    def _submitted(self) -> None:
        self.action_agree()

    def action_agree(self) -> None:
        if self._over:
            self.dismiss()
            return
        if not self._ready:
            return
        if self._plan.typed and self.query_one("#dialog-typed", Input).value.strip() != self._plan.typed:
            self._note(f"type {self._plan.typed}, the id of the replica that is shown above, or press esc")
            return
        self._ready = False
        self._note("at work ...")
        self._carry_out()

    @work(exclusive=True)
    async def _carry_out(self) -> None:
        try:
            outcome = await self._plan.carry_out()
        except NotDoneError as refusal:
            self._told(f"{self._plan.title}: {refusal}", True)
            self._end(str(refusal))
        else:
            self._told(outcome, False)
            self._end(outcome)

    def _end(self, text: str) -> None:
        self._over = True
        self._note(f"{text}\n\nesc-close")
        if self._plan.typed:
            self.query_one("#dialog-typed", Input).disabled = True
        self.set_focus(None)

    def action_close(self) -> None:
        self.dismiss()


class AskScreen(Dialog):
    """One line of text; `accept` may refuse it with a ValueError, whose sentence is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", show=False)]

    def __init__(self, title: str, hint: str, accept: Callable[[str], None]) -> None:
        super().__init__()
        self._title, self._hint, self._accept = title, hint, accept

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(self._title, id="dialog-title", markup=False)
            yield Input(placeholder=self._hint)
            yield Static("", id="dialog-note", markup=False)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        try:
            self._accept(event.value)
        except ValueError as error:
            self.query_one("#dialog-note", Static).update(str(error))
        else:
            self.dismiss()

    def action_close(self) -> None:
        self.dismiss()
