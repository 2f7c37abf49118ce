"""The one training loop behind all four trainings of the tiny generator."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pipeline.config.weights import Fit
from pipeline.progress import Track, silent

CHECKPOINT_EVERY = 100
LOG_EVERY = 20
PREVIEWS = 4

Loss = Callable[[int], Tensor]
"""The scalar loss of a step. It draws from a generator seeded by the step's number, so that a resumed training
repeats exactly the steps of an uninterrupted one."""


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
    loss: Loss,
    config: Fit,
    folder: Path,
    *,
    preview: Callable[[Path], None] | None = None,
    progress: Track = silent,
) -> None:
    """Train the parameters of `network` that require gradients; on return it holds the averaged weights, if any.

    `folder` receives `checkpoint/` (every 100 steps; a later call continues from it), `log.jsonl` (mean loss and
    seconds so far) and what `preview` draws now and then, with the averaged weights in place.
    """
    accelerator = Accelerator()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    network, optimizer = accelerator.prepare(network, optimizer)
    average = EMAModel(parameters, decay=config.ema, foreach=True)
    average.to(accelerator.device)
    clock = Clock()
    accelerator.register_for_checkpointing(schedule, average, clock)
    if (folder / "checkpoint").exists():
        accelerator.load_state(str(folder / "checkpoint"))
    folder.mkdir(parents=True, exist_ok=True)
    forget_log_after(folder / "log.jsonl", clock.step)
    recent: list[Tensor] = []
    began = time.monotonic() - clock.seconds
    todo = range(clock.step, config.steps)
    for step in progress(todo, total=config.steps, description=f"Training {folder.name}", done=clock.step):
        value = loss(step)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(parameters, 1.0)
        update(optimizer, schedule)
        average.step(parameters)
        recent.append(value.detach())
        clock.step, clock.seconds = step + 1, time.monotonic() - began
        last = clock.step == config.steps
        if clock.step % LOG_EVERY == 0 or last:
            write_log(folder / "log.jsonl", clock, recent)
            recent.clear()
        if clock.step % CHECKPOINT_EVERY == 0 or last:
            save_checkpoint(accelerator, folder / "checkpoint")
        if preview is not None and (clock.step % math.ceil(config.steps / PREVIEWS) == 0 or last):
            show(preview, folder / f"step-{clock.step:06d}.png", average if config.ema else None, parameters)
    if config.ema:
        average.copy_to(parameters)


def update(optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    """One step with the gradients at hand, which are cleared for the next."""
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()


def learning_rate_factor(step: int, config: Fit) -> float:
    """Linear warm-up to 1, then half a cosine down to 0 at the last step."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1))


def forget_log_after(path: Path, step: int) -> None:
    """Drop the lines of steps that are about to be repeated."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def write_log(path: Path, clock: Clock, recent: list[Tensor]) -> None:
    """Append one line; the seconds count over all sessions of this training."""
    mean = torch.stack(recent).mean().item()
    if not math.isfinite(mean):
        raise FloatingPointError(f"the loss is {mean} at step {clock.step}: lower the learning rate")
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": clock.step, "loss": round(mean, 6), "seconds": round(clock.seconds, 1)}) + "\n")


def save_checkpoint(accelerator: Accelerator, folder: Path) -> None:
    """Replace the checkpoint by the present state; there is a complete one at every moment but that of the exchange."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    accelerator.save_state(str(partial))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


@torch.no_grad()
def show(preview: Callable[[Path], None], path: Path, average: EMAModel | None, parameters: list[nn.Parameter]) -> None:
    """Draw with the averaged weights, then put the trained ones back."""
    if average is not None:
        average.store(parameters)
        average.copy_to(parameters)
    preview(path)
    if average is not None:
        average.restore(parameters)
