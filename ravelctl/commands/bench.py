"""`ravelctl bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import DURATION, Effect, RavelCommand, Whole, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import View, count_text

if TYPE_CHECKING:
    from ravelctl.load.bench import Figures

MIXES: Final = ("put", "get", "mixed")
CLIENTS_MAX: Final = 512
PIPELINE_MAX: Final = 1024  # commands a message: the protocol's bound
KEYS_MAX: Final = 10_000_000
VALUE_BYTES_MAX: Final = 1 << 20
MESSAGE_BYTES_MAX: Final = 3 << 20  # of values, so that a message with its keys stays below the daemons' 4 MiB
_BAR: Final = 40


@click.command("bench", cls=RavelCommand, effect=Effect.PLANS)
@click.option("--clients", type=Whole(1, CLIENTS_MAX), default=64, show_default=True, help="Callers at once.")
@click.option("--pipeline", type=Whole(1, PIPELINE_MAX), default=1, show_default=True, help="Commands a message.")
@click.option("--value-size", type=Whole(0, VALUE_BYTES_MAX), default=256, show_default=True, help="Bytes a value.")
@click.option("--seconds", type=DURATION, default=10.0, show_default=True, help="How long.")
@click.option("--mix", type=click.Choice(MIXES), default="put", show_default=True, help="What to do; mixed is half and half.")
@click.option("--keys", type=Whole(1, KEYS_MAX), default=1000, show_default=True, help="Different keys.")
@click.option("--prefix", default="bench/", show_default=True, help="What the keys begin with.")
@pass_app
def command(
    app: App, clients: int, pipeline: int, value_size: int, seconds: float, mix: str, keys: int, prefix: str
) -> Work | View:  # one parameter an option, as click passes them
    """Put load on a live cluster and measure it.

    Each caller waits for its answer before it asks again. With --pipeline above 1 a caller sends that many commands in one
    message on a raw stream, and latency is that of the message. The keys stay in the store.
    """
    if pipeline * value_size > MESSAGE_BYTES_MAX:
        raise usage_error(
            f"{pipeline} values of {value_size} bytes make a message of more than {MESSAGE_BYTES_MAX} bytes",
            "lower --pipeline or --value-size",
        )
    if app.settings.dry_run:
        body = f"would have {count_text(clients, 'client')} {mix} {count_text(keys, 'key')} under {prefix} for {seconds:g}s"
        data = {"mix": mix, "clients": clients, "keys": keys, "prefix": prefix, "seconds": seconds, "dry_run": True}
        return View(kind="Bench", data=data, body=body, notes=("dry run: nothing was changed",))
    return _measured(app, clients, pipeline, value_size, seconds, mix, keys, prefix)


async def _measured(
    app: App, clients: int, pipeline: int, value_size: int, seconds: float, mix: str, keys: int, prefix: str
) -> View:
    from ravelctl.load.bench import Load, Mix, measure

    return _view(await measure(app, Load(clients, pipeline, value_size, seconds, Mix(mix), keys, prefix.encode())))


def _view(figures: Figures) -> View:
    load, tally, latencies = figures.load, figures.tally, figures.tally.latencies
    quantiles = {f"p{share:g}": latencies.quantile_s(share / 100) * 1000 for share in (50, 90, 99, 99.9)}
    milliseconds = {name: round(value, 3) for name, value in {**quantiles, "max": latencies.max_s * 1000}.items()}
    octaves = latencies.octaves()
    data: dict[str, Any] = {
        "load": {
            "mix": load.mix,
            "clients": load.clients,
            "pipeline": load.pipeline,
            "value_size": load.value_bytes,
            "keys": load.keys,
            "seconds": load.seconds,
        },
        "seconds": round(figures.elapsed_s, 3),
        "commands": tally.done,
        "commands_per_second": round(figures.per_second, 1),
        "latency_ms": milliseconds,
        "histogram": [{"from_ms": low * 1000, "to_ms": high * 1000, "count": count} for low, high, count in octaves],
        "errors": dict(sorted(tally.errors.items())),
        "unknown": tally.unknown,
    }
    errors = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.errors.items())) or "0"
    lines = [
        f"{load.mix}  {count_text(load.clients, 'client')}, pipeline {load.pipeline}, values of {load.value_bytes} bytes",
        f"commands    {tally.done:,} in {figures.elapsed_s:.1f}s",
        f"throughput  {figures.per_second:,.0f} commands/s",
        f"latency ms  {'  '.join(f'{name} {value:.2f}' for name, value in milliseconds.items())}",
        f"errors      {errors}",
        f"unknown     {tally.unknown}",
        *_histogram(octaves),
    ]
    return View(
        kind="Bench",
        data=data,
        body="\n".join(lines),
        names=(f"{figures.per_second:.0f}",),
        code=ExitCode.DONE if tally.done else ExitCode.FAILED,
    )


def _histogram(octaves: list[tuple[float, float, int]]) -> list[str]:
    most = max((count for _, _, count in octaves), default=1)
    return [
        f"{low * 1000:9.3f} to {high * 1000:9.3f} ms  {count:>9,}  {'#' * round(count / most * _BAR)}".rstrip()
        for low, high, count in octaves
    ]
