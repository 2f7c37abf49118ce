"""The one training loop behind all trainings of a generator's networks, on one or many processes."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pipeline.config.weights import Fit
from pipeline.errors import UserError
from pipeline.work.progress import Track, silent

LOG_EVERY = 20
PREVIEWS = 4

Batch = TypeVar("Batch")


class Part(NamedTuple):
    """What one process runs at once: some rows of a step's batch. Whatever is drawn for them follows from step and row
    alone, so that a resumed training repeats exactly the steps of an uninterrupted one."""

    step: int
    rows: slice


class Clock:
    """Steps done and seconds spent on them, over all sessions of one training."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self.seconds = int(state["step"]), state["seconds"]


def fit(
    network: nn.Module,
    data: Callable[[Sequence[Part]], Iterable[Batch]],
    loss: Callable[[nn.Module, Batch], Tensor],
    config: Fit,
    folder: Path,
    *,
    accelerator: Callable[[], Accelerator] = Accelerator,
    preview: Callable[[Path], None] | None = None,
    progress: Track = silent,
) -> None:
    """Train the parameters of `network` that require gradients; on return it holds the averaged weights, if any.

    `data` gives one batch per part, in order; `loss` is a part's mean loss, taken with the network that it is handed
    (with several processes it is wrapped). `folder` receives `checkpoint/` (a later call continues from it),
    `log.jsonl` (mean loss and seconds so far) and what `preview` draws now and then, with the averaged weights.
    UserError: a loss that is not finite (the last good checkpoint is kept), a batch that the processes cannot share.
    """
    training = Training(network, config, folder, accelerator())
    training.resume()
    batches = iter(data(list(training.parts())))
    todo = range(training.clock.step, config.steps)
    track = progress if training.run.is_main_process else silent
    for _ in track(todo, total=config.steps, description=f"Training {folder.name}", done=training.clock.step):
        training.step(batches, loss)
        step, last = training.clock.step, training.clock.step == config.steps
        saves = last or step % config.checkpoint_every == 0
        if saves or step % LOG_EVERY == 0:
            training.write_log()
        if saves:
            training.save()
        if preview is not None and (last or step % math.ceil(config.steps / PREVIEWS) == 0):
            training.show(preview)
    training.finish()


class Training:
    """One training's state: what a step changes and what a checkpoint holds."""

    def __init__(self, network: nn.Module, config: Fit, folder: Path, run: Accelerator) -> None:
        if config.batch_size % (config.accumulation * run.num_processes):
            raise UserError(
                f"batch_size {config.batch_size} does not divide over {run.num_processes} processes with accumulation"
                f" {config.accumulation}: make it a multiple of {config.accumulation * run.num_processes}"
            )
        self.config, self.folder, self.run = config, folder, run
        run.gradient_accumulation_steps = config.accumulation  # global: the next Accelerator() would reset it
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=1e-2, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
        self.network, self.optimizer = run.prepare(network, optimizer)
        self.average = EMAModel(self.parameters, decay=config.ema, foreach=True) if config.ema else None
        self.clock = Clock()
        self.began = time.monotonic()
        self.recent: list[Tensor] = []
        run.register_for_checkpointing(self.schedule, self.clock)
        if self.average:
            self.average.to(run.device)
            run.register_for_checkpointing(self.average)

    def parts(self) -> Iterator[Part]:
        """What this process runs from the present step to the end."""
        share = self.config.batch_size // self.run.num_processes
        size = share // self.config.accumulation
        first = share * self.run.process_index
        for step in range(self.clock.step, self.config.steps):
            for start in range(first, first + share, size):
                yield Part(step, slice(start, start + size))

    def step(self, batches: Iterator[Batch], loss: Callable[[nn.Module, Batch], Tensor]) -> None:
        """One update with the gradients of this step's parts."""
        for _ in range(self.config.accumulation):
            batch = next(batches)
            with self.run.accumulate(self.network):
                with self.run.autocast():
                    value = loss(self.network, batch)
                self.run.backward(value)
            self.recent.append(value.detach())
        self.run.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average:
            self.average.step(self.parameters)
        self.clock.step, self.clock.seconds = self.clock.step + 1, time.monotonic() - self.began

    def write_log(self) -> None:
        """Append one line: the mean loss since the last one. UserError where it is not finite."""
        mean = float(self.run.reduce(torch.stack(self.recent).float().mean(), "mean"))
        self.recent.clear()
        if not math.isfinite(mean):
            raise UserError(
                f"{self.folder.name}: the loss is {mean} at step {self.clock.step}; the checkpoint before it is kept:"
                " lower the learning rate, or take precision bf16 where it is fp16"
            )
        if self.run.is_main_process:
            entry = {"step": self.clock.step, "loss": round(mean, 6), "seconds": round(self.clock.seconds, 1)}
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """Replace the checkpoint by the present state; a complete one is there at every moment."""
        new, old, partial = (self.folder / name for name in ("checkpoint", "checkpoint.old", "checkpoint.partial"))
        if self.run.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.run.wait_for_everyone()
        self.run.save_state(str(partial))
        self.run.wait_for_everyone()
        if self.run.is_main_process:
            if new.exists():
                shutil.rmtree(old, ignore_errors=True)
                new.rename(old)
            partial.rename(new)
            shutil.rmtree(old, ignore_errors=True)
        self.run.wait_for_everyone()

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one; forget log lines of steps that are about to be repeated."""
        for name in ("checkpoint", "checkpoint.old"):
            if (self.folder / name).exists():
                self.run.load_state(str(self.folder / name))
                break
        self.began = time.monotonic() - self.clock.seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "log.jsonl"
        if path.exists() and self.run.is_main_process:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self.clock.step]
            path.write_text("".join(kept), encoding="utf-8")

    @torch.no_grad()
    def show(self, preview: Callable[[Path], None]) -> None:
        """Draw with the averaged weights, then put the trained ones back."""
        if self.run.is_main_process:
            if self.average:
                self.average.store(self.parameters)
                self.average.copy_to(self.parameters)
            preview(self.folder / f"step-{self.clock.step:06d}.png")
            if self.average:
                self.average.restore(self.parameters)
        self.run.wait_for_everyone()

    def finish(self) -> None:
        """Leave the averaged weights in the network, without what Accelerate wrapped it in."""
        if self.average:
            self.average.copy_to(self.parameters)
        self.run.unwrap_model(self.network, keep_fp32_wrapper=False)


def learning_rate_factor(step: int, config: Fit) -> float:
    """Linear warm-up to 1; then 1, or half a cosine down to 0 at the last step."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1))
