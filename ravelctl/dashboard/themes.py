"""The looks of the dashboard: dark, light, and the terminal's own sixteen colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from textual.theme import BUILTIN_THEMES, Theme

DARK: Final = Theme(
    name="ravel-dark",
    primary="#7aa2f7",
    secondary="#7dcfff",
    accent="#bb9af7",
    foreground="#c8d0e0",
    background="#12151c",
    surface="#1a1f2a",
    panel="#1f2530",
    success="#73c991",
    warning="#e5b567",
    error="#f2727f",
    dark=True,
    variables={
        "ravel-dim": "#6b7488",
        "ravel-key": "#7aa2f7",
        "ravel-lead": "#7dcfff",
        "ravel-trend": "#5f9ea0",
        "ravel-cursor": "#2a3347",
        "ravel-cursor-style": "none",
        "ravel-banner-text": "#12151c",
        "ravel-border": "#49536b",
        "ravel-veil": "#12151c 60%",
    },
)

LIGHT: Final = Theme(
    name="ravel-light",
    primary="#1f5fbf",
    secondary="#0b7285",
    accent="#7048a8",
    foreground="#24292f",
    background="#fbfbf9",
    surface="#f0f0ec",
    panel="#e8e8e4",
    success="#1a7f37",
    warning="#9a5b00",
    error="#c0202c",
    dark=False,
    variables={
        "ravel-dim": "#6e7781",
        "ravel-key": "#1f5fbf",
        "ravel-lead": "#0b6478",
        "ravel-trend": "#3b8085",
        "ravel-cursor": "#dbe6f5",
        "ravel-cursor-style": "none",
        "ravel-banner-text": "#ffffff",
        "ravel-border": "#b0b6be",
        "ravel-veil": "#fbfbf9 60%",
    },
)

ANSI: Final = Theme(
    name="ravel-ansi",
    ansi=True,
    primary="ansi_blue",
    secondary="ansi_cyan",
    accent="ansi_magenta",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    dark=True,
    variables={
        **BUILTIN_THEMES["ansi-dark"].variables,
        "ravel-dim": "ansi_bright_black",
        "ravel-key": "ansi_blue",
        "ravel-lead": "ansi_cyan",
        "ravel-trend": "ansi_cyan",
        "ravel-cursor": "ansi_default",
        "ravel-cursor-style": "reverse",
        "ravel-banner-text": "ansi_black",
        "ravel-border": "ansi_white",
        "ravel-veil": "ansi_default",
    },
)

THEMES: Final = (DARK, LIGHT, ANSI)
NAMES: Final[Mapping[str, str]] = {"dark": DARK.name, "light": LIGHT.name, "ansi": ANSI.name}


def fitting(environ: Mapping[str, str]) -> str:
    """The theme for a terminal: sixteen colours where NO_COLOR is set or nothing says that it knows more."""
    if environ.get("NO_COLOR"):
        return ANSI.name
    rich = environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") or "256color" in environ.get("TERM", "")
    return DARK.name if rich or environ.get("TEXTUAL_DRIVER") else ANSI.name
