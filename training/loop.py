"""The training loop's state: what one iteration changes, what is logged after each block, what a checkpoint holds."""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config.training import Method, TrainingConfig
from pipeline.data.labels import IGNORE
from pipeline.errors import UserError
from pipeline.seeding import derive_seed
from pipeline.work.progress import Track
from training.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from training.data import Batch, TrainingSet, batch_loader
from training.draws import Drawer, DrawnBlocks
from training.interrupts import Interrupts
from training.launch import Stop
from training.networks import Segmenter
from training.parts import images_at_once, in_parts
from training.pools import ImagePool
from training.ranks import gathered, rank, summed, world_size
from training.state import StepState
from training.step import LossTerms, train_step
from training.validation import validate

TERMS = LossTerms._fields[:-1]
"""What the log holds of every block; the last field is the loss per image."""
LAYOUT = 2
"""The checkpoints' version, raised when they hold something else, so that older ones are refused. 2: the draws."""


@dataclass
class Loop:
    """One training run. `rows` holds what the iterations of the unfinished block measured, each (T + B,): the T loss
    terms and the loss of each image of the global batch; it stays on the device until the block ends."""

    config: TrainingConfig
    method: Method
    seed: int
    folder: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    state: StepState
    drawer: Drawer
    samples: TrainingSet
    loader_workers: int = 0
    iteration: int = 0
    rows: list[torch.Tensor] = field(default_factory=list)
    note: str = ""
    """The last block's loss, for the progress bar."""

    def __post_init__(self) -> None:
        self.draws = DrawnBlocks(self.drawer)
        self.at_once = images_at_once(self.config)

    @property
    def segmenter(self) -> Segmenter:
        """The network without what Accelerate wraps it in."""
        segmenter = self.accelerator.unwrap_model(self.model)
        assert isinstance(segmenter, Segmenter)
        return segmenter

    def run(self, watched: ImagePool, progress: Track, interrupts: Interrupts, stop: Stop) -> None:
        """All iterations that are left: draw, step, and at a block's end learn, log, validate on the `watched` images
        and save where that is due. KeyboardInterrupt, after a checkpoint, once a signal or `stop` asks for it."""
        with torch.random.fork_rng(), interrupts.held():
            self.model.train()
            total, done = self.config.iterations, self.iteration
            for batch in progress(
                self.batches(), total=total, description="training", done=done, note=lambda: self.note
            ):
                self.step(batch)
                if self.at_block_end:
                    self._end_block(watched)
                if self.stops(interrupts.came or stop()):
                    self.save()
                    raise KeyboardInterrupt

    def batches(self) -> Iterator[Batch]:
        """This rank's batches from `iteration` to the end. Workers load ahead of training, across blocks."""
        self.draws.draw(self.iteration)
        share = self.config.batch_size // world_size()
        mine = slice(rank() * share, (rank() + 1) * share)
        loader = batch_loader(
            self.samples,
            (batch[mine] for batch in self.draws.batches(self.iteration)),
            workers=self.loader_workers,
            block=self.config.block,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        return iter(loader)

    def step(self, batch: Batch) -> None:
        """One iteration: forward, backward, update. Its randomness follows from seed, iteration and rank alone."""
        batch = Batch(*(tensor.to(self.accelerator.device, non_blocking=True) for tensor in batch))
        written = (*self.segmenter.buffers(), *self.state.buffers())
        losses = in_parts(lambda size: self._gradients(batch, size), self.at_once, written)
        if self.config.optimizer.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        row = gathered(losses[None])
        self.rows.append(torch.cat([row[:, : len(TERMS)].mean(dim=0), row[:, len(TERMS) :].flatten()]))
        self.iteration += 1

    def _gradients(self, batch: Batch, size: int) -> torch.Tensor:
        """Sets the gradients of the batch, from parts of `size` images. Gives (T + B,): its loss terms and the loss of
        each image."""
        torch.manual_seed(derive_seed(self.seed, "dropout", self.iteration, rank()))
        # What the step draws itself must be the same on every rank.
        torch_rng = torch.Generator().manual_seed(derive_seed(self.seed, "step", self.iteration))
        parts = [Batch(*tensors) for tensors in zip(*(tensor.split(size) for tensor in batch), strict=True)]
        terms = torch.zeros(len(TERMS), device=self.accelerator.device)
        per_image = []
        self.optimizer.zero_grad(set_to_none=True)
        for part, share in zip(parts, _shares(parts), strict=True):
            with nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.model):
                losses = train_step(self.model, part, self.config, self.method, self.state, torch_rng)
                self.accelerator.backward(losses.total * share)
            terms += torch.stack(losses[:-1]).detach() * share
            per_image.append(losses.per_image)
        return torch.cat([terms, *per_image])

    @property
    def at_block_end(self) -> bool:
        """Whether the block's last iteration is done."""
        return self.iteration % self.config.block == 0 or self.iteration == self.config.iterations

    def finish_block(self) -> dict[str, float | None]:
        """Teaches the sampler the block's losses and gives the block's means for the log. UserError on divergence."""
        rows = self._checked_rows()
        self.draws.learn(rows[:, len(TERMS) :].tolist())
        self.draws.draw(self.iteration)
        self.rows = []
        means = dict(zip(TERMS, rows[:, : len(TERMS)].mean(dim=0).tolist(), strict=True))
        self.note = f"loss {means['total']:.3f}"
        record = {"loss": means.pop("total"), **means, "learning_rate": self.schedule.get_last_lr()[0]}
        if self.at_once.most < images_at_once(self.config).most:  # other weights than the config alone gives
            record["images_at_once"] = self.at_once.most
        return record

    def stops(self, interrupted: bool) -> bool:
        """Whether to stop here because a rank was interrupted. Several ranks agree on it when a block ends."""
        if world_size() == 1:
            return interrupted
        return self.at_block_end and bool(summed(torch.tensor(float(interrupted), device=self.accelerator.device)))

    def save(self) -> None:
        """Writes the checkpoint. UserError, and the last one stays, if the run has diverged."""
        rows = self._checked_rows() if self.rows else torch.empty(0)
        if not all(bool(weight.isfinite().all()) for weight in self.segmenter.parameters()):
            raise self._diverged(self.iteration, "the weights are not finite")
        if not self.accelerator.is_main_process:
            return
        state = {
            "identity": self.identity,
            "iteration": self.iteration,
            "model": self.segmenter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "state": self.state.state_dict(),
            "hardness": [_tensors(sampler.state()) for sampler in self.drawer.hardness],
            "draws": self.draws.state(),
            "rows": rows,
            "images_at_once": self.at_once.most,
            "log": self.log.read_text() if self.log.is_file() else "",
        }
        save_checkpoint(self.checkpoint, state)

    def resume(self) -> None:
        """Takes up the last good checkpoint, if there is one, and the log as it was then."""
        state = load_checkpoint(self.checkpoint, self.identity, quiet=not self.accelerator.is_main_process)
        if state is not None:
            self.iteration = state["iteration"]
            self.at_once.most = min(self.at_once.most, state.get("images_at_once", self.at_once.most))
            self.segmenter.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.state.load_state_dict(state["state"])
            self.draws.restore(state["draws"], self.iteration)
            self.rows = [row.to(self.accelerator.device) for row in state["rows"]]
            for sampler, saved in zip(self.drawer.hardness, state["hardness"], strict=True):
                sampler.restore({name: tensor.numpy() for name, tensor in saved.items()})
        if self.accelerator.is_main_process:
            self.log.write_text("" if state is None else state["log"])

    def write_log(self, record: Mapping[str, float | None]) -> None:
        """Appends one line to log.jsonl and tells the tracker. None is a number that does not exist."""
        if self.accelerator.is_main_process:
            with self.log.open("a") as lines:
                lines.write(json.dumps({"iteration": self.iteration, **record}, allow_nan=False) + "\n")
            self.accelerator.log({name: v for name, v in record.items() if v is not None}, step=self.iteration)

    @property
    def log(self) -> Path:
        """The log's file."""
        return self.folder / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's folder, there only while the run is unfinished."""
        return self.folder / "checkpoint"

    @property
    def identity(self) -> str:
        """What a checkpoint must have in common with the run that resumes from it."""
        images = [len(sampler.hardness) for sampler in self.drawer.hardness]
        settings = self.config.model_dump_json(exclude={"methods", "seeds"}, exclude_defaults=True)
        method = self.method.model_dump_json(exclude_defaults=True)  # so that an option more changes nothing
        return f"{derive_seed(LAYOUT, settings, method, self.seed, images):x}"

    def _end_block(self, watched: ImagePool) -> None:
        """Logs the block; validates and checkpoints where they are due."""
        record = self.finish_block()
        last = self.iteration == self.config.iterations
        if len(watched) and (last or self._due(self.config.validation_every)):
            preview = self.folder / "previews" / f"{self.iteration:06d}.png"
            record["validation_miou"] = validate(self.segmenter, watched, self.config.scale, preview)
        self.write_log(record)
        if last or self._due(self.config.checkpoint_every):
            self.save()

    def _due(self, every: int) -> bool:
        """Whether a multiple of `every` lies in the block that has just ended."""
        before = (self.iteration - 1) // self.config.block * self.config.block
        return self.iteration // every > before // every

    def _checked_rows(self) -> torch.Tensor:
        """(iterations, T + B) on the CPU. UserError if a loss is not finite or above the limit."""
        rows = torch.stack(self.rows).cpu()
        totals = rows[:, 0]
        bad = (~(totals.abs() <= self.config.loss_limit)).nonzero()  # NaN compares false
        if len(bad):
            first = int(bad[0])
            raise self._diverged(self.iteration - len(rows) + first + 1, f"loss {totals[first]:.4g}")
        return rows

    def _diverged(self, iteration: int, what: str) -> UserError:
        saved = checkpoints(self.checkpoint)
        kept = f"the last good checkpoint is kept, {saved[0]}" if saved else "there was no checkpoint yet"
        return UserError(
            f"training diverged at iteration {iteration}: {what}; {kept}; lower training.optimizer.learning_rate"
            " or lengthen training.optimizer.warmup"
        )


def _shares(parts: list[Batch]) -> list[torch.Tensor | float]:
    """Each part's share of the valid pixels of the global batch: its losses are means over its own valid pixels."""
    if len(parts) == 1:
        return [1.0]
    valid = summed(torch.stack([(part.label != IGNORE).sum() for part in parts]))
    return list(valid / valid.sum().clamp(min=1))


def _tensors(state: Any) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in state.items()}
