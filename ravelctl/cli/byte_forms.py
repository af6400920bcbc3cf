"""Keys and values on a command line and on a screen: text, or with --hex and --base64 any bytes."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeVar

import click

from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import printable

F = TypeVar("F", bound=Callable[..., Any])


class ByteForm(Enum):
    """How bytes are written. Text is for people: what cannot be printed is escaped, and JSON falls back to base64."""

    TEXT = "text"
    HEX = "hex"
    BASE64 = "base64"

    def read(self, word: bytes, what: str) -> bytes:
        """The bytes that a word of the command line stands for. Raises CommandError (exit 2)."""
        try:
            match self:
                case ByteForm.HEX:
                    return binascii.unhexlify(word)
                case ByteForm.BASE64:
                    return binascii.a2b_base64(word, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise usage_error(f"{what} {printable(word, 64)!r} is not {self.value}: {str(error).lower()}") from error
        return word

    def show(self, raw: bytes, limit: int | None = None) -> str:
        """One line of text; what is longer than `limit` characters is cut and marked."""
        match self:
            case ByteForm.HEX:
                text = raw.hex()
            case ByteForm.BASE64:
                text = binascii.b2a_base64(raw, newline=False).decode()
            case _:
                return printable(raw, limit)
        return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"

    def fields(self, **values: bytes) -> dict[str, Any]:
        """The same for programs: with a field `<name>_encoding` beside each value that is not text."""
        if self is ByteForm.TEXT:
            return dict(values)  # the printer marks what is not UTF-8
        found: dict[str, Any] = {}
        for name, raw in values.items():
            found |= {name: self.show(raw), f"{name}_encoding": self.value}
        return found


_FORM: Final = "ravelctl.byte_form"


def byte_form_options(function: F) -> F:
    """Adds --hex and --base64; the command finds the choice with `chosen_form`."""
    for form in (ByteForm.BASE64, ByteForm.HEX):
        function = click.option(
            f"--{form.value}",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help=f"Keys and values are {form.value}, in and out. Files and stdin hold plain bytes.",
        )(function)
    return function


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value:
        return
    if _FORM in ctx.meta:
        raise usage_error("--hex and --base64 exclude each other", "give one of them")
    ctx.meta[_FORM] = ByteForm(str(param.name))


def chosen_form() -> ByteForm:
    """What the running command was told."""
    form: ByteForm = click.get_current_context().meta.get(_FORM, ByteForm.TEXT)
    return form
