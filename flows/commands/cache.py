"""The artifact store: what is in it, whether it is whole, and deleting what nobody needs."""

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.store.inventory import Entry
    from pipeline.store.remote import Remote

StoreOption = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="The local store; without it ./cache, if it is there.")
]
RemoteOption = Annotated[str | None, typer.Option("--remote", metavar="URL", help="The store that machines share.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", metavar="CONFIG", help="Take both from a config's machine section.")
]
LOCAL = Path("cache")


def cache_list(store: StoreOption = None, remote: RemoteOption = None, config: ConfigOption = None) -> None:
    """Print every artifact: stage, key, size, when it was made and how long that took, where it is, who builds it."""
    from flows.commands.tables import entries_table, size_text
    from flows.tables import console

    entries = _entries(*_places(store, remote, config))
    console().print(entries_table(entries))
    for where in ("local", "remote"):
        if own := [entry for entry in entries if entry.where == where]:
            print(f"{where}: {len(own)} artifacts, {size_text(sum(entry.size for entry in own))}")


def cache_verify(store: StoreOption = None, remote: RemoteOption = None, config: ConfigOption = None) -> None:
    """Read every file of every finished artifact and compare its sha256. One line per damage; exit code 2 if any."""
    from pipeline.errors import UserError
    from pipeline.store.manifest import verify_artifact
    from pipeline.store.remote import Remote
    from pipeline.store.shared_artifact import SharedArtifact
    from pipeline.work.progress import bar

    finished = [entry for entry in _entries(*_places(store, remote, config)) if entry.manifest or entry.damage]
    damaged = []
    for entry in bar(finished, total=len(finished), description="Verifying artifacts"):
        try:
            if entry.damage:
                damaged.append(entry.damage)
            elif isinstance(entry.place, Remote):
                with tempfile.TemporaryDirectory() as scratch:
                    shared = SharedArtifact(entry.place, entry.name, entry.digits)
                    damaged += shared.verify(Path(scratch))[:1]
            else:
                verify_artifact(entry.place / entry.name)
        except UserError as error:
            damaged.append(str(error))
    for line in damaged:
        print(f"flexseg: {line}", file=sys.stderr)
    print(f"{len(finished) - len(damaged)} of {len(finished)} artifacts are whole")
    if damaged:
        sys.exit(2)


def cache_prune(
    *,
    keep_run: Annotated[
        list[str], typer.Option(metavar="NAME", help="Delete what runs of this name (or key) do not need. Repeatable.")
    ] = [],
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", min=0, help="Delete what is older.")] = None,
    unfinished: Annotated[bool, typer.Option(help="Delete the parts of builds that were broken off.")] = False,
    stage: Annotated[list[str], typer.Option(metavar="STAGE", help="Only artifacts of this stage. Repeatable.")] = [],
    yes: Annotated[bool, typer.Option("--yes", help="Really delete; else only show.")] = False,
    lease: Annotated[float, typer.Option(metavar="S", help="The machine.lease of those who build.")] = 60,
    store: StoreOption = None,
    remote: RemoteOption = None,
    config: ConfigOption = None,
) -> None:
    """Show, and with --yes delete, what is not needed. With --remote there too.

    Never what is being built, registered models, nor what anything that stays was made from. With --keep-run and
    --older-than an artifact goes if both say so.
    """
    from pipeline.errors import UserError
    from pipeline.store.inventory import abandoned, age_in_days, needed_by, runs_named

    if not keep_run and older_than is None and not unfinished:
        raise UserError("say what to delete: --keep-run NAME, --older-than DAYS or --unfinished")
    places = _places(store, remote, config)
    entries = _entries(*places)
    if damaged := [entry.damage for entry in entries if entry.damage and (keep_run or older_than is not None)]:
        raise UserError(f"what a damaged artifact was made from is not known, so nothing is deleted: {damaged[0]}")
    needed = needed_by(entries, [*runs_named(entries, keep_run), *_registered(*places, entries)])
    finished = [entry for entry in entries if entry.manifest and (keep_run or older_than is not None)]
    going = {
        entry.name
        for entry in finished
        if entry.name not in needed and age_in_days(entry) >= (older_than or 0) and (not stage or entry.stage in stage)
    }
    kept = needed_by(entries, [entry for entry in entries if entry.manifest and entry.name not in going])
    gone = [entry for entry in finished if entry.name in going - kept and not entry.owner]
    if unfinished:
        left = [entry for entry in entries if not entry.manifest and not entry.damage]
        left = [entry for entry in left if not stage or entry.stage in stage]
        dead = abandoned(left, lease)
        gone += [entry for entry in left if not entry.owner or (entry.where == "remote" and entry.name in dead)]
    _delete(gone, really=yes)


def _delete(entries: "list[Entry]", *, really: bool) -> None:
    """Says what goes, or with `really` has gone."""
    from flows.commands.tables import size_text
    from pipeline.store.inventory import delete

    for entry in entries:
        deleted = delete(entry) if really else False
        kind = "" if entry.manifest else "unfinished "
        what = "deleted" if deleted else ("is being built, kept" if really else "would go")
        print(f"{what}: {kind}{entry.name} ({entry.where}, {size_text(entry.size)})")
    total = size_text(sum(entry.size for entry in entries))
    print(
        f"{len(entries)} artifacts, {total}" + ("" if really or not entries else ": repeat with --yes to delete them")
    )


def _places(store: Path | None, remote: str | None, config: str | None) -> tuple[Path, "Remote | None"]:
    """The local store and the shared one. UserError where a place that was named holds no store: an empty list would
    look as if all were lost. A machine that has only begun to share a store has no local one yet."""
    from pipeline.errors import UserError
    from pipeline.files import printable
    from pipeline.store.places import check_root
    from pipeline.store.remote import Remote

    if config is not None:
        from pipeline.config.experiment import load_config

        machine = load_config(config, []).machine
        own, remote = machine.store, remote or machine.remote
    else:
        own = store or LOCAL
    check_root(own)
    if not own.is_dir() and (store is not None or remote is None):
        raise UserError(f"there is no store in {printable(own.absolute())}: name its folder with --store")
    shared = Remote(remote) if remote else None
    if shared is not None and not shared.exists():
        raise UserError(f"there is no store at {shared.where('')}: name its URL with --remote")
    return own, shared


def _registered(store: Path, remote: "Remote | None", entries: "list[Entry]") -> "list[Entry]":
    """Registered models and their baselines."""
    from flows.registered_models import records
    from pipeline.store.artifacts import ArtifactStore

    models = records(ArtifactStore(store, remote=remote.url if remote else None))
    places = [place for model in models for place in (model.model, model.baseline) if place]
    # A place is a key, or a folder of an artifact or in one.
    digits = tuple(part for place in places for part in Path(place).parts if re.fullmatch("[0-9a-f]{1,64}", part))
    return [entry for entry in entries if entry.manifest and entry.manifest.key.startswith(digits)]


def _entries(store: Path, remote: "Remote | None") -> "list[Entry]":
    from pipeline.store.inventory import local_entries, remote_entries

    return [*local_entries(store), *(remote_entries(remote) if remote else ())]
