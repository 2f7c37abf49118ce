"""Generated images."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import ConfigArgument, SetOption, load
from pipeline.errors import UserError, one_line
from pipeline.files import check_new_folder


def generate(
    config: ConfigArgument,
    overrides: SetOption = [],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the finished data set to this new folder, with its scores.")
    ] = None,
    join: Annotated[
        bool,
        typer.Option("--join", help="Help a 'flexseg generate' of this config, here or on a machine with this store."),
    ] = False,
) -> None:
    """Generate the stylized images of a config: a Hugging Face dataset folder (parquet with images and labels)."""
    if join and output is not None:
        raise UserError("--join paints what another command waits for, and copies nothing: leave out --output")
    if output is not None:
        check_new_folder(output, "--output")
    from flows import data_stages, stages
    from flows.retries import persistently

    run = load(config, overrides)
    _ = run.weights_key
    if join:
        stages.join_generation(run)
        return
    data_stages.class_statistics(run)
    images = persistently(stages.generated)(run)
    scored = persistently(stages.alignment)(run, images.key, images.folder)
    if output is not None:
        from generation.scores import publish_scored

        try:
            publish_scored(run.generation, run.config.alignment, images.folder, scored.folder, output)
        except OSError as error:
            raise UserError(
                f"--output {output}: copying stopped ({one_line(error)}); the images are whole in {images.folder}: make"
                " room and run the same command again"
            ) from error
    print(f"{(output or images.folder).absolute()}")


def export(
    images: Annotated[
        str, typer.Argument(metavar="KEY_OR_FOLDER", help="Generated images: their key in the store, or their folder.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one of an interrupted export.")],
    minimum_alignment: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Leave out images whose alignment is lower.", min=0, max=1)
    ] = None,
    store: Annotated[Path, typer.Option(metavar="DIR", help="The store that the key is looked up in.")] = Path("cache"),
) -> None:
    """Write generated images as the folders that DAFormer's, HRDA's and DGInStyle's code train from."""
    from flows.stages import alignment_of
    from generation.export import export as export_images
    from pipeline.data.alignment_scores import has_scores
    from pipeline.store.artifacts import ArtifactStore
    from pipeline.store.manifest import MANIFEST, read_manifest
    from pipeline.work.progress import bar

    if Path(images).is_dir():
        folder, scored = Path(images), None
        if minimum_alignment is not None and not has_scores(folder) and (folder / MANIFEST).is_file():
            store = folder.absolute().parents[1]
            scored = alignment_of(store, ArtifactStore(store).open(read_manifest(folder).key))
    else:
        artifact = ArtifactStore(store).open(images)
        folder, scored = artifact.folder, alignment_of(store, artifact) if minimum_alignment is not None else None
    count = export_images(folder, to, minimum_alignment, scored=scored, progress=bar)
    print(f"{count} images in {to.absolute()}")
