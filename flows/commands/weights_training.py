"""`flexseg weights train`: which training a config's `weights` section asks for, and its data."""

from pathlib import Path

from flows import data_stages
from flows.run import Run
from pipeline.errors import UserError


def train_weights(run: Run, output: Path, *, ship: Path | None = None) -> None:
    """Train what the config's `weights` section says into `output`; `ship` takes the half-precision toy generator.

    Raises UserError before any long work where the prior, the data set or its images are missing.
    """
    config, machine = run.config.weights, run.config.machine
    if config is None:
        raise UserError("the config has no 'weights' section; the presets toy-weights and gta-dginstyle have one")
    if config.scratch is not None:
        from generation.weights.ship import ship_weights
        from generation.weights.train import train_from_scratch

        train_from_scratch(config, output, machine=machine, progress=run.progress)
        if ship is not None:
            ship_weights(config, output, ship)
        return
    if ship is not None:
        raise UserError("--ship writes the toy generator; what is fine-tuned from 'prior_from' is ready in --output")
    from generation.folders import network_folder, prior_folders

    prior = prior_folders(config.prior_from or "", "weights.prior_from")
    if isinstance(config.source, str):
        network_folder(config.source, "unet", "weights.source")
    data_stages.labels(run)
    pixels = data_stages.training_pixels(run)
    scenes = [run.source.scenes[row] for row in run.training_rows]
    from generation.weights.train import fine_tune

    fine_tune(config, prior, scenes, pixels, output, machine=machine, progress=run.progress)
