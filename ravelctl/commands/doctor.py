"""`ravelctl doctor`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import ENDPOINT, NameType, RavelCommand, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import View, count_text, size_text

if TYPE_CHECKING:
    from ravelctl.diagnosis.codes import Code
    from ravelctl.diagnosis.finding import Finding
    from ravelctl.diagnosis.judgement import Diagnosis
    from ravelctl.diagnosis.seen import Directory, Seen

DIRECTORIES_MAX: Final = 64
_CODE: Final = NameType("code", "code")


@click.command("doctor", cls=RavelCommand, watchable=True)
@click.argument("code", required=False, metavar="[CODE]", type=_CODE)
@click.option(
    "--data-dir", "data_dirs", type=click.Path(), multiple=True,
    help="Look at this data directory, whether or not its daemon runs. May be repeated.",
)  # fmt: skip
@click.option(
    "--bundle", type=click.Path(dir_okay=False), metavar="FILE",
    help="Also put all that is seen into this archive (.tar.gz), without secrets and without keys and values.",
)  # fmt: skip
@click.option("--with-keys", is_flag=True, help="Let the bundle's log entries name the keys that they are about.")
@click.option("--metrics", type=ENDPOINT, multiple=True, help="Put what this daemon's --metrics-listen shows into the bundle.")
@click.option("--explain", "explained", metavar="CODE", type=_CODE, help="Tell what a code means, as `doctor CODE` does.")
@pass_app
def command(
    app: App,
    code: str | None,
    data_dirs: tuple[str, ...],
    bundle: str | None,
    with_keys: bool,
    metrics: tuple[str, ...],
    explained: str | None,
) -> View | Work:
    """Find out why there is no leader, why it is slow, and what is at risk.

    Asks all members, found from any endpoint, and looks at the directories that are given. With --data-dir it dials nobody unless
    the command line also says --endpoints or --context. Every finding has a stable code: `ravelctl doctor RV207` tells about it.

    Exits 0 where nothing is wrong, 7 with findings, 4 where there is no leader or no quorum, 8 on damaged data, 3 when nobody
    answers.
    """
    if named := explained or code:
        return _explained(named)
    if len(data_dirs) > DIRECTORIES_MAX:
        raise usage_error(f"{len(data_dirs)} directories were given, and doctor looks at {DIRECTORIES_MAX} at most")
    wanted = _wanted_bundle(bundle, with_keys, metrics)
    directories: tuple[Directory, ...] = ()
    if data_dirs:
        from ravelctl.offline.doctor import look

        with app.progress("looking at") as progress:
            found = []
            for path in dict.fromkeys(data_dirs):
                progress.update(path)
                found.append(look(path))
            directories = tuple(found)
    if data_dirs and not _dials(app) and wanted is None:
        from ravelctl.diagnosis.judgement import diagnose
        from ravelctl.diagnosis.seen import Seen

        return _view(diagnose(Seen(directories=directories)))
    return _examined(app, directories, wanted)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive that is wanted."""

    target: Path
    with_keys: bool
    metrics: tuple[str, ...]


def _wanted_bundle(file: str | None, with_keys: bool, metrics: tuple[str, ...]) -> Bundle | None:
    """Raises CommandError (2) for a file that cannot be written, before anything is asked."""
    if file is None:
        if with_keys or metrics:
            raise usage_error("--with-keys and --metrics say what goes into a bundle", "give --bundle FILE too")
        return None
    from ravelctl.diagnosis.bundle import METRICS_MAX, require_target

    if len(metrics) > METRICS_MAX:
        raise usage_error(f"{len(metrics)} addresses of metrics were given, and {METRICS_MAX} are read at most")
    require_target(Path(file))
    return Bundle(Path(file), with_keys, metrics)


def _dials(app: App) -> bool:
    """Whether this command line itself names daemons. What a variable or the current context names is not dialled beside
    directories: whoever looks at the dead wants no answer from the living."""
    return any(app.origins.get(name, "").startswith("flag") for name in ("endpoints", "context"))


async def _examined(app: App, directories: tuple[Directory, ...], wanted: Bundle | None) -> View:
    from ravelctl.diagnosis.gather import gather
    from ravelctl.diagnosis.judgement import diagnose
    from ravelctl.diagnosis.seen import Seen

    if directories and not _dials(app):
        seen = Seen(directories=directories)
    else:
        seen = await gather(app, app.settings.endpoints, directories)
    view = _view(diagnose(seen))
    return view if wanted is None else await _bundled(app, wanted, seen, view)


async def _bundled(app: App, wanted: Bundle, seen: Seen, view: View) -> View:
    from ravelctl.diagnosis.bundle import collect, write

    with app.progress("collecting from") as progress:
        parts = await collect(app, seen, view.data, str(view.body) + "\n", wanted.metrics, progress, with_keys=wanted.with_keys)
    size = write(wanted.target, parts)
    note = f"{wanted.target}: {count_text(len(parts.made), 'part')}, {size_text(size)}"
    if parts.left_out:
        note += f"; {', '.join(parts.left_out)} did not fit"
    return replace(view, notes=(*view.notes, note))


# --- printing


def _view(found: Diagnosis) -> View:
    from ravelctl.diagnosis.judgement import severity_word

    return View(
        kind="Doctor",
        data={
            "healthy": not found.findings,
            "cluster_id": found.cluster_id,
            "cluster_name": found.cluster_name,
            "findings": [
                {
                    "code": one.code,
                    "severity": severity_word(one.severity),
                    "subject": one.subject,
                    "message": one.sentence,
                    "seen": one.seen,
                    "why": one.why,
                    "do": one.do,
                }
                for one in found.findings
            ],
            "checked": found.checked,
        },
        body="\n".join(_lines(found)),
        names=tuple(dict.fromkeys(one.code for one in found.findings)),
        code=found.exit,
    )


def _lines(found: Diagnosis) -> list[str]:
    from ravelctl.diagnosis.judgement import severity_word

    which = " ".join(filter(None, ("cluster", found.cluster_name, found.cluster_id[:8]))) if found.cluster_id else "no cluster"
    verdict = count_text(len(found.findings), "finding") if found.findings else "nothing is wrong"
    lines = [f"{which}  {verdict}"]
    for one in found.findings:
        lines += ["", f"{one.code} {severity_word(one.severity)}: {one.sentence}", *_details(one)]
    if found.findings:
        lines.append("")
    return [*lines, f"checked: {'; '.join(found.checked)}"]


def _details(one: Finding) -> list[str]:
    return [*(f"  seen: {line}" for line in one.seen), f"  why:  {one.why}", f"  do:   {one.do}"]


# --- explaining


def _explained(named: str) -> View:
    from difflib import get_close_matches

    from ravelctl.diagnosis.codes import CODES

    code = CODES.get(named.upper())
    if code is None:
        near = get_close_matches(named.upper(), CODES, n=1)
        raise usage_error(
            f"there is no code {named!r}", f"did you mean `ravelctl doctor {near[0]}`?" if near else "see docs/doctor.md"
        )
    return View(
        kind="DoctorCode",
        data={
            "code": code.code,
            "severity": code.severity.name.lower(),
            "family": code.family,
            "title": code.title,
            "meaning": code.meaning,
            "cause": code.cause,
            "evidence": code.evidence,
            "cure": code.cure,
            "exit_code": int(code.exit),
        },
        body=_page(code),
        names=(code.code,),
    )


def _page(code: Code) -> str:
    return "\n".join(
        (
            f"{code.code} {code.title} ({code.severity.name.lower()}, {code.family})",
            f"meaning:   {code.meaning}",
            f"cause:     {code.cause}",
            f"evidence:  {code.evidence}",
            f"cure:      {code.cure}",
            f"exit code: {int(code.exit)}, if nothing worse is found",
        )
    )
