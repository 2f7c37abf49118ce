"""What `flexseg plan --cost` says: FLOPs, memory, hours and disk of what is not made yet. Estimated, not measured."""

from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from flows.commands.tables import size_text
from flows.domains import Domain
from flows.run import Run
from flows.tables import Column, table
from pipeline.config.precision import Precision
from pipeline.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import
    from pipeline.work.cost import Card, Cost
    from training.networks import Segmenter

SAMPLED = 16
"""Images of a target whose sizes stand for all of them."""
STATE = 24
"""Bytes per weight of the two checkpoints that an unfinished training keeps: the weight and AdamW's two moments."""


class StageCost(NamedTuple):
    """What one kind of work costs: FLOPs of all of it, GPU memory of one process, bytes on the disk."""

    what: str
    amount: str
    cost: "Cost"
    precision: Precision
    disk: int


def stage_costs(run: Run, missing: Collection[str]) -> Iterator[StageCost]:
    """The stages among `missing`, which are named as in the cache's table."""
    if "generated images" in missing:
        yield _painting(run)
    for name in run.config.training.methods:
        seeds = [seed for seed in run.config.training.seeds if f"segmenter {name}, seed {seed}" in missing]
        if seeds:
            yield _training(run, name, len(seeds))
    scored = [what for what in missing if what.startswith("evaluation ")]
    if scored:
        yield _scoring(run, len(scored))


def _painting(run: Run) -> StageCost:
    from generation.cost import painted_image, shapes_of
    from generation.folders import weights_folders

    config = run.generation
    image = painted_image(shapes_of(weights_folders(config.weights), config), config, run.config.machine)
    count = sum(config.counts.values())
    disk = count * config.size[0] * config.size[1] * 4  # three colors and the label, before compression
    return StageCost("painting", f"{count:,} images", image.times(count), config.precision, disk)


def _training(run: Run, name: str, seeds: int) -> StageCost:
    from training.cost import segmenter_shape, training_step

    method = run.config.training.methods[name]
    config = run.config.training.of(method)
    step = training_step(config, method, run.config.machine.processes)
    weights = _weights(segmenter_shape(config.network))
    disk = weights * (4 * seeds + STATE)
    amount = f"{seeds} x {config.iterations:,} iterations"
    return StageCost(f"training {name}", amount, step.times(config.iterations * seeds), config.precision, disk)


def _scoring(run: Run, models: int) -> StageCost:
    from evaluation.cost import scored_image
    from pipeline.work.cost import Cost
    from training.cost import prediction, segmenter_shape

    config, batch = run.config.evaluation, run.config.machine.evaluation_batch
    network = segmenter_shape(run.config.training.network)

    @cache
    def call(count: int, size: tuple[int, int]) -> Cost:
        return prediction(network, count, size)

    total, images = Cost(0, 0), 0
    for domain in run.targets:
        sizes = _sizes(domain)
        images += len(domain.scenes)
        for size, count in sizes.items():
            share = len(domain.scenes) * count / sizes.total()
            total = total.then(scored_image(config, domain.name, size, batch, call).times(share))
    return StageCost("scoring", f"{models} x {images:,} images", total.times(models), config.precision, 0)


def _sizes(domain: Domain) -> Counter[tuple[int, int]]:
    """How often each (height, width) in px occurs in a sample of a target's images, by their headers."""
    from pipeline.data.image_files import image_size

    scenes = domain.scenes[:: max(1, len(domain.scenes) // SAMPLED)]
    return Counter(image_size(scene.label, "label") for scene in scenes)


def _weights(network: "Segmenter") -> int:
    return sum(weight.numel() for weight in network.parameters())


def card_here() -> "Card | None":
    """The GPU of this machine, None without one. Its rate is 0 where it is not in the table of cards."""
    import torch

    from pipeline.work.cost import Card, find_card

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    words = found.name.lower().replace("geforce", "").replace("rtx ", "rtx").split()
    for name in ("-".join(words[1:3]), *words):
        try:
            return find_card(name)._replace(name=found.name, memory=found.total_memory)
        except UserError:
            continue
    return Card(found.name, 0.0, found.total_memory)


def costs_table(rows: Collection[StageCost], card: "Card | None", utilisation: float) -> Table:
    """The stages with what they cost; hours where the card's rate is known."""
    from pipeline.work.cost import hours

    room = None if card is None else card.memory

    def memory(row: StageCost) -> str:
        needed = f"{row.cost.memory / 1e9:.1f} GB"
        full = room is not None and row.cost.memory > room
        return f"{needed}, more than {card.name} has" if full and card is not None else needed

    def time(row: StageCost) -> str:
        if card is None or card.rate == 0:
            return "-"
        return f"{hours(row.cost.flops, card, utilisation, row.precision):.3g}"

    columns = [
        Column[StageCost]("stage", lambda row: row.what, left=True),
        Column[StageCost]("amount", lambda row: row.amount),
        Column[StageCost]("PFLOP", lambda row: f"{row.cost.flops / 1e15:,.4g}"),
        Column[StageCost]("in", lambda row: row.precision),
        Column[StageCost]("GPU memory", memory),
        Column[StageCost]("GPU hours", time),
        Column[StageCost]("disk, at most", lambda row: size_text(row.disk) if row.disk else "-"),
    ]
    return table("What is not made yet would cost: estimated, not measured", columns, rows)


def basis(card: "Card | None", utilisation: float) -> str:
    """How the estimate is made, for people."""
    how = (
        "FLOPs are counted on the networks; memory is what their operations hold at once, without the gigabyte or so"
        " that CUDA and fragmentation take."
    )
    if card is None:
        return f"{how} There is no GPU here: --card NAME or TFLOPS gives hours."
    if card.rate == 0:
        return f"{how} The rate of {card.name} is not known: --card TFLOPS gives hours."
    return (
        f"{how} Hours are those of one {card.name} at {100 * utilisation:.0f}% (assumed; --utilisation) of"
        f" {card.rate / 1e12:g} TFLOPS in bf16, half of it in tf32, a fifteenth in fp32."
    )
