"""The training loop's state: what one iteration changes, what is logged after each block, what a checkpoint holds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from pipeline.config.training import Method, TrainingConfig
from pipeline.errors import UserError
from pipeline.seeding import derive_seed
from training.checkpoints import FILE, load_checkpoint, save_checkpoint
from training.data import Batch, BlockSampler, Draw, TrainingSet
from training.draws import Drawer
from training.networks import Segmenter
from training.prototypes import PrototypeBank
from training.step import train_step


@dataclass
class Loop:
    """One training run. `rows` holds what the iterations of the unfinished block measured, each (ranks, 3 + B):
    total loss, its two terms, and the loss per image; it stays on the device until the block ends."""

    config: TrainingConfig
    method: Method
    seed: int
    folder: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    bank: PrototypeBank
    drawer: Drawer
    samples: TrainingSet
    loader_workers: int = 0
    iteration: int = 0
    draws: list[list[Draw]] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)

    @property
    def segmenter(self) -> Segmenter:
        """The network without what Accelerate wraps it in."""
        segmenter = self.accelerator.unwrap_model(self.model)
        assert isinstance(segmenter, Segmenter)
        return segmenter

    def batches(self) -> Iterator[Batch]:
        """This rank's batches from `iteration` to the end; each block is drawn when its first batch is asked for."""
        sampler = BlockSampler()
        loader: DataLoader[Batch] = DataLoader(
            self.samples,
            batch_sampler=sampler,
            num_workers=self.loader_workers,
            persistent_workers=self.loader_workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws nothing that matters, but would advance the global one
        )
        share = self.config.batch_size // self.accelerator.num_processes
        mine = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        while self.iteration < self.config.iterations:
            done = self.iteration % self.config.block
            start = self.iteration - done
            self.draws = self.drawer.block(start, min(self.config.block, self.config.iterations - start))
            sampler.batches = [draws[mine] for draws in self.draws[done:]]
            yield from loader

    def step(self, batch: Batch) -> None:
        """One iteration: forward, backward, update. Its randomness follows from seed, iteration and rank alone."""
        rank = self.accelerator.process_index
        torch.manual_seed(derive_seed(self.seed, "dropout", self.iteration, rank))
        cells = torch.Generator().manual_seed(derive_seed(self.seed, "boundary cells", self.iteration, rank))
        batch = Batch(*(tensor.to(self.accelerator.device, non_blocking=True) for tensor in batch))
        terms = train_step(self.model, batch, self.config, self.method, self.bank, cells)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(terms.total)
        self.optimizer.step()
        self.schedule.step()
        row = torch.cat([torch.stack(terms[:3]).detach(), terms.per_image])
        self.rows.append(self.accelerator.gather(row[None]))
        self.iteration += 1

    @property
    def at_block_end(self) -> bool:
        """Whether the block's last iteration is done."""
        return self.iteration % self.config.block == 0 or self.iteration == self.config.iterations

    def finish_block(self) -> dict[str, float]:
        """Teaches the sampler the block's losses and gives the block's means for the log. UserError on divergence."""
        rows = self._checked_rows()
        for draws, losses in zip(self.draws, rows[:, :, 3:].flatten(1).tolist(), strict=True):
            self.drawer.learn(draws, losses)
        self.rows = []
        total, segmentation, gap = rows[:, :, :3].mean(dim=(0, 1)).tolist()
        rate = self.schedule.get_last_lr()[0]
        return {"loss": total, "segmentation": segmentation, "gap": gap, "learning_rate": rate}

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
            "bank": self.bank.state_dict(),
            "hardness": [_tensors(sampler.state()) for sampler in self.drawer.hardness],
            "rows": rows,
        }
        save_checkpoint(self.checkpoint, state)

    def resume(self) -> None:
        """Takes up the last checkpoint, if there is one, and drops log lines that were written after it."""
        state = load_checkpoint(self.checkpoint, self.identity)
        if state is not None:
            self.iteration = state["iteration"]
            self.segmenter.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.bank.load_state_dict(state["bank"])
            self.rows = [row.to(self.accelerator.device) for row in state["rows"]]
            for sampler, saved in zip(self.drawer.hardness, state["hardness"], strict=True):
                sampler.restore({name: tensor.numpy() for name, tensor in saved.items()})
        if self.accelerator.is_main_process:
            lines = self.log.read_text().splitlines(keepends=True) if self.log.is_file() else []
            self.log.write_text("".join(line for line in lines if json.loads(line)["iteration"] <= self.iteration))

    def write_log(self, record: dict[str, Any]) -> None:
        """Appends one line to log.jsonl."""
        if self.accelerator.is_main_process:
            with self.log.open("a") as lines:
                lines.write(json.dumps({"iteration": self.iteration, **record}) + "\n")

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
        settings = self.config.model_dump_json(exclude={"methods", "seeds"})
        return f"{derive_seed(settings, self.method.model_dump_json(), self.seed, images):x}"

    def _checked_rows(self) -> torch.Tensor:
        """(iterations, ranks, 3 + B) on the CPU. UserError if a loss is not finite or above the limit."""
        rows = torch.stack(self.rows).cpu()
        totals = rows[:, :, 0].mean(dim=1)
        bad = (~(totals.abs() <= self.config.loss_limit)).nonzero()  # NaN compares false
        if len(bad):
            first = int(bad[0])
            raise self._diverged(self.iteration - len(rows) + first + 1, f"loss {totals[first]:.4g}")
        return rows

    def _diverged(self, iteration: int, what: str) -> UserError:
        saved = (self.checkpoint / FILE).is_file()
        kept = f"the last good checkpoint is kept in {self.checkpoint}" if saved else "there was no checkpoint yet"
        return UserError(
            f"training diverged at iteration {iteration}: {what}; {kept}; lower training.optimizer.learning_rate"
            " or lengthen training.optimizer.warmup"
        )


def _tensors(state: Any) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in state.items()}
