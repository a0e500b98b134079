"""`penstock tune`: what the kernel must be set to for a goal; told, printed, checked, applied, undone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..tune.changes import Change, Memory, Outcome
    from ..tune.parameter import Verdict
    from ..tune.plan import Plan

PROFILES = ("gateway", "web", "bulk")
STATE = "/var/lib/penstock/tune.json"
MOST = 100_000_000
EXIT_UNMET = 1


@click.command(
    "tune",
    epilog="Each setting, what it costs and how a wrong one shows: docs/kernel-parameters.md.",
)
@click.option("--connections", metavar="N", type=click.IntRange(1, MOST), help="Connections held at once.")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default="gateway",
    show_default=True,
    help="gateway: very many, nearly all idle. web: requests that come and go. bulk: few that fill the path.",
)
@click.option("--workers", metavar="N", type=click.IntRange(1, 4096), help="Worker processes.  [default: one a CPU]")
@click.option(
    "--outgoing", metavar="N", type=click.IntRange(0, MOST), default=0, help="Connections that this machine opens."
)
@click.option(
    "--rate", metavar="N", type=click.IntRange(1, 10_000_000), help="Connections opened a second, at the peak."
)
@click.option("--mbit", metavar="N", type=click.FloatRange(0.01, 1e6), help="Mbit/s of the fastest connection.")
@click.option("--rtt", metavar="MS", type=click.FloatRange(0.01, 1e5), help="Its round trip, in milliseconds.")
@click.option("--explain", metavar="NAME", help="Tell all about one setting.")
@click.option("--json", "as_json", is_flag=True, help="Tell it to a program.")
@click.option("--check", is_flag=True, help="Exit with 1 if the machine falls short of the goal.")
@click.option(
    "--print",
    "printed",
    type=click.Choice(("sysctl", "systemd", "tmpfiles")),
    help="Print a file for /etc/sysctl.d, a unit's drop-in, or a file for /etc/tmpfiles.d.",
)
@click.option("--apply", "applied", is_flag=True, help="Set what is due, after showing it and asking.")
@click.option("--undo", "undone", is_flag=True, help="Put back what was there before --apply.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--state", metavar="PATH", default=STATE, show_default=True, help="Where --apply keeps what was there before."
)
@click.option(
    "--root", metavar="DIR", default="/", show_default=True, help="Where /proc and /sys are, as in a container."
)
def command(
    connections: int | None,
    profile: str,
    workers: int | None,
    outgoing: int,
    rate: int | None,
    mbit: float | None,
    rtt: float | None,
    explain: str | None,
    as_json: bool,
    check: bool,
    printed: str | None,
    applied: bool,
    undone: bool,
    yes: bool,
    state: str,
    root: str,
) -> int:
    """Say what the kernel should be set to for a goal, why, and what it costs.

    Nothing is changed unless --apply or --undo asks for it.
    """
    _refuse_two_answers(
        {"--explain": explain, "--json": as_json, "--print": printed, "--apply": applied, "--undo": undone}
    )
    if check and (applied or undone):
        raise ConfigError("--check only looks: leave --apply and --undo out")
    if not Path(root, "proc").is_dir():
        raise ConfigError(f"--root: expected a directory with proc in it, got {root!r}")
    # Only now, so that help and a wrong option are answered at once.
    from .. import tune
    from ..tune import changes

    machine = tune.survey(Path(root))
    memory = changes.Memory(Path(state))
    if undone:
        return _undo(Path(root), memory, machine.boot_id, yes)
    goal = tune.goal_for(
        machine,
        profile,
        connections=connections,
        outgoing=outgoing,
        workers=workers,
        opened_per_s=rate,
        mbit=mbit,
        rtt_ms=rtt,
    )
    plan = tune.plan_for(machine, goal)
    if applied:
        return _apply(plan, Path(root), memory, yes)
    _tell(plan, explain, as_json, printed)
    return EXIT_UNMET if check and plan.unmet else 0


def _refuse_two_answers(asked: dict[str, object]) -> None:
    given = [flag for flag, value in asked.items() if value]
    if len(given) > 1:
        raise ConfigError(f"{given[0]} and {given[1]} are two different answers: ask for one of them")


def _tell(plan: Plan, explain: str | None, as_json: bool, printed: str | None) -> None:
    from ..tune import report

    width = shutil.get_terminal_size((120, 24)).columns
    if explain:
        click.echo(_explained(plan, explain, min(width, 110)))
    elif as_json:
        click.echo(report.as_json(plan))
    elif printed:
        click.echo(report.FILES[printed](plan), nl=False)
    else:
        click.echo(report.table(plan, width=width, paint=_paint))


def _paint(text: str, verdict: Verdict) -> str:
    from ..tune import report

    return click.style(text, fg=report.COLOURS[verdict])


def _explained(plan: Plan, name: str, width: int) -> str:
    import difflib

    from ..tune import report

    known = {each.name: each for each in plan.advice}
    short = {each.rpartition(".")[2]: each for each in known}
    found = known.get(name) or known.get(short.get(name, ""))
    if found is None:
        nearest = difflib.get_close_matches(name, [*known, *short], n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ConfigError(f"--explain: no advice on {name} for this goal{hint}")
    return report.explanation(found, width=width)


def _apply(plan: Plan, root: Path, memory: Memory, yes: bool) -> int:
    from ..tune import changes

    due = changes.changes_for(plan.advice)
    by_hand = [each for each in plan.due if not each.can_be_written]
    for each in by_hand:
        click.echo(f"not set here: {each.name}, {each.parameter.by}: penstock tune --explain '{each.name}'")
    if not due:
        click.echo("There is nothing to set.")
        return 0
    _need_root(root, "--apply")
    _show(due)
    _ask(f"Set {_counted(due)}?", yes)
    outcomes = changes.apply(due, root=root, memory=memory, boot_id=plan.machine.boot_id)
    failed = _told(outcomes)
    click.echo(
        f"{len(outcomes) - failed} set, {failed} not. What was there is in {memory.path}: penstock tune --undo puts it "
        "back. The next boot forgets all of it: penstock tune --print sysctl makes a file that stays."
    )
    return 1 if failed else 0


def _undo(root: Path, memory: Memory, boot_id: str, yes: bool) -> int:
    from ..tune import changes

    made = memory.load(boot_id)
    if not made:
        click.echo(f"There is nothing to undo: {memory.path} has no changes of this boot.")
        return 0
    _need_root(root, "--undo")
    _show([changes.Change(name=each.name, place=each.place, before=each.after, after=each.before) for each in made])
    _ask(f"Put back {_counted(made)}?", yes)
    outcomes = changes.undo(root=root, memory=memory, boot_id=boot_id)
    failed = _told(outcomes)
    click.echo(f"{len(outcomes) - failed} as before or left alone, {failed} not.")
    return 1 if failed else 0


def _need_root(root: Path, flag: str) -> None:
    from ..tune.changes import TuneError

    if root == Path("/") and os.geteuid() != 0:
        raise TuneError(f"{flag} writes to /proc/sys, which takes root: run it with sudo; nothing was changed")


def _show(due: Iterable[Change]) -> None:
    """The difference, a line each."""
    rows = list(due)
    names = max(len(each.name) for each in rows)
    before = max(len(each.before) for each in rows)
    for each in rows:
        click.echo(f"  {each.name:<{names}}  {each.before:>{before}} -> {each.after}")


def _ask(question: str, yes: bool) -> None:
    from ..tune.changes import TuneError

    if yes:
        return
    try:
        agreed = click.confirm(question)
    except click.Abort:
        raise TuneError("nobody answered, so nothing was changed; --yes does it without asking") from None
    if not agreed:
        raise TuneError("nothing was changed")


def _told(outcomes: Iterable[Outcome]) -> int:
    """Say what became of each, and how many could not be done."""
    failed = 0
    for each in outcomes:
        if each.error is not None:
            failed += 1
            click.echo(f"  {click.style('failed', fg='red')}  {each.change.name}: {each.error}")
        elif each.left_alone:
            click.echo(f"  left    {each.change.name}: somebody has set it to {each.now} since")
        else:
            click.echo(f"  {click.style('set', fg='green')}     {each.change.name} = {each.now}")
    return failed


def _counted(due: Iterable[Change]) -> str:
    from ..tune.arithmetic import counted

    return counted(len(list(due)), "setting")
