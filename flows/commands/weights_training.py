"""`flexseg weights train`: which training a config's `weights` section asks for, and its data."""

import platform
import shutil
from pathlib import Path

from flows import data_stages
from flows.run import Run
from pipeline.config.weights import Pretraining
from pipeline.errors import UserError


def train_weights(run: Run, output: Path, *, ship: Path | None = None) -> None:
    """Train what the config's `weights` section says into `output`; `ship` takes the half-precision toy generator.

    Raises UserError before any long work where the prior, the data set or its images are missing.
    """
    config, machine = run.config.weights, run.config.machine
    if config is None and run.config.pretraining is not None:
        pretrain_encoder(run, run.config.pretraining, output, ship=ship)
        return
    if config is None:
        raise UserError(
            "the config has no 'weights' or 'pretraining' section; the presets toy-weights, toy-encoder and"
            " gta-dginstyle have one"
        )
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


ENCODER, CARD = "encoder", "README.md"
ENCODER_CARD = """---
license: apache-2.0
library_name: transformers
---
# Toy town encoder

A tiny Mix Transformer (SegFormer's encoder) with ImageNet's role for the segmenters of flexseg's embedded world:
`training.network.pretrained: toy-town`. It knows nothing of real streets.

It was trained to classify crops around objects of {images} renders of random towns (the prior's world, seed {seed})
under a clear sky. It has seen no target's style, no target's scene and no other weather. Command:
`flexseg weights train toy-encoder`.

| steps | batch | minutes | last loss | right on {test} other renders, 19 classes equally often |
|---|---|---|---|---|
| {steps} | {batch} | {minutes} | {loss} | {accuracy}% |

The time is of {threads} thread(s) of a busy machine ({machine}, torch {torch}).
"""


def pretrain_encoder(run: Run, config: Pretraining, output: Path, *, ship: Path | None = None) -> None:
    """Pretrain an encoder of `training.network`'s sizes: `encoder` and a card in `output`; `ship` takes both."""
    from generation.weights.loop import train_network
    from generation.weights.output import TRAINING, claim, publish, published
    from training.pretraining import pretrain

    claim(output, config)
    if not published(output / ENCODER):
        log = output / TRAINING / ENCODER
        network, machine = run.config.training.network, run.config.machine
        classifier, accuracy = pretrain(config, network, log, fit=train_network, machine=machine, progress=run.progress)
        publish(classifier, output / ENCODER)
        (output / CARD).write_text(encoder_card(config, log, accuracy), encoding="utf-8")
    if ship is not None:
        shutil.copytree(output / ENCODER, ship, dirs_exist_ok=True)
        shutil.copyfile(output / CARD, ship / CARD)


def encoder_card(config: Pretraining, log: Path, accuracy: float) -> str:
    """The card's text; every number is read from the config and the log, or was measured at the end."""
    import torch

    from generation.weights.ship import last_line

    end = last_line(log / "log.jsonl")
    return ENCODER_CARD.format(
        steps=end["step"],
        batch=config.batch_size,
        minutes=f"{end['seconds'] / 60:.1f}",
        loss=f"{end['loss']:.3f}",
        accuracy=f"{100 * accuracy:.1f}",
        images=config.images,
        test=config.test_images,
        seed=config.seed,
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
