"""The one training loop behind all trainings of a generator's networks, on one or many processes."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from generation.weights.checkpoints import keep, kept
from pipeline.config.weights import NetworkTraining
from pipeline.errors import UserError, one_line
from pipeline.files import written_whole
from pipeline.work.devices import MemoryFullError, out_of_memory
from pipeline.work.in_flight import InFlight
from pipeline.work.progress import Track, silent

CHECKPOINT, LOG = "checkpoint.json", "log.jsonl"
LOG_EVERY = 20
PREVIEWS = 4

Batch = TypeVar("Batch")


class MicroBatch(NamedTuple):
    """What one process runs at once: some rows of a step's batch. Whatever is drawn for them follows from step and row
    alone, so that a resumed training repeats exactly the steps of an uninterrupted one."""

    step: int
    rows: slice


def train_network(
    network: nn.Module,
    data: Callable[[Sequence[MicroBatch]], Iterable[Batch]],
    loss: Callable[[nn.Module, Batch], Tensor],
    config: NetworkTraining,
    folder: Path,
    *,
    accelerator: Callable[[], Accelerator] = Accelerator,
    preview: Callable[[Path], None] | None = None,
    progress: Track = silent,
) -> None:
    """Train the parameters of `network` that require gradients; on return it holds the averaged weights, if any.

    `data` gives one batch per micro-batch, in order; `loss` is its mean loss, taken with the network that it is handed
    (with several processes it is wrapped). `folder` receives `checkpoint.json` with its tensors (a later call continues
    from it, see `checkpoints`), `log.jsonl` (mean loss and seconds so far) and what `preview` draws now and then, with
    the averaged weights.
    UserError: a loss that is not finite (the last good checkpoint is kept), a batch that the processes cannot share.
    """
    training = Training(network, config, folder, accelerator())
    training.resume()
    batches = iter(data(list(training.micro_batches())))
    todo = range(training.done, config.steps)
    track = progress if training.run.is_main_process else silent
    for _ in track(todo, total=config.steps, description=f"Training {folder.name}", done=training.done):
        while not training.stepped(batches, loss):
            batches = iter(data(list(training.micro_batches())))
        step, last = training.done, training.done == config.steps
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

    def __init__(self, network: nn.Module, config: NetworkTraining, folder: Path, run: Accelerator) -> None:
        if config.batch_size % (config.accumulation * run.num_processes):
            raise UserError(
                f"batch_size {config.batch_size} does not divide over {run.num_processes} processes with accumulation"
                f" {config.accumulation}: make it a multiple of {config.accumulation * run.num_processes}"
            )
        self.config, self.folder, self.run = config, folder, run
        self.share = config.batch_size // run.num_processes
        option = f"as a larger accumulation of {folder.name}, which gives the same gradients"
        smaller = "take weights.precision bf16, gradient_checkpointing or a smaller weights.crop"
        self.in_flight = InFlight("image", self.share // config.accumulation, option, smaller)
        run.gradient_accumulation_steps = config.accumulation  # global: the next Accelerator() would reset it
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=1e-2, fused=True
        )
        self.network, self.optimizer = run.prepare(network, optimizer)
        self.average = EMAModel(self.parameters, decay=config.ema, foreach=True) if config.ema else None
        self.done = 0
        self.seconds = 0.0
        self.began = time.monotonic()
        self.recent: list[Tensor] = []
        if self.average:
            self.average.to(run.device)

    def micro_batches(self) -> Iterator[MicroBatch]:
        """What this process runs from the present step to the end."""
        size, first = self.in_flight.most, self.share * self.run.process_index
        for step in range(self.done, self.config.steps):
            for start in range(first, first + self.share, size):
                yield MicroBatch(step, slice(start, start + size))

    def stepped(self, batches: Iterator[Batch], loss: Callable[[nn.Module, Batch], Tensor]) -> bool:
        """Whether the step is done. False where the GPU's memory was full: it is to be done again, with the smaller
        micro-batches that `micro_batches` gives from now on. One of several processes can't do so alone."""
        try:
            self.step(batches, loss)
        except Exception as error:
            full = out_of_memory(error)
            if full is not None and self.run.num_processes > 1:
                raise MemoryFullError(
                    f"the GPU of a process that trains {self.folder.name} is full ({full.said}): raise its"
                    " accumulation, which gives the same gradients; the last checkpoint is kept"
                ) from error
            if not self.in_flight.halved(error, self.in_flight.most):
                raise
        else:
            return True
        # Parts are equal, so that the mean of their losses is that of the whole.
        self.in_flight.most = max(size for size in range(1, self.in_flight.most + 1) if self.share % size == 0)
        self.run.gradient_accumulation_steps, self.run.step = self.share // self.in_flight.most, 0
        for parameter in self.parameters:
            parameter.grad = None  # Accelerate's zero_grad does nothing in the middle of a step
        return False

    def step(self, batches: Iterator[Batch], loss: Callable[[nn.Module, Batch], Tensor]) -> None:
        """One update with the gradients of this step's micro-batches."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(self.done, self.config)
        values = []
        for _ in range(self.share // self.in_flight.most):
            batch = next(batches)
            with self.run.accumulate(self.network):
                with self.run.autocast():
                    value = loss(self.network, batch)
                self.run.backward(value)
            values.append(value.detach())
        self.run.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.recent.append(torch.stack(values).mean())
        if self.average:
            self.average.step(self.parameters)
        self.done, self.seconds = self.done + 1, time.monotonic() - self.began

    def write_log(self) -> None:
        """Append one line: the mean loss since the last one. UserError where it is not finite."""
        mean = float(self.run.reduce(torch.stack(self.recent).float().mean(), "mean"))
        self.recent.clear()
        if not math.isfinite(mean):
            raise UserError(
                f"{self.folder.name}: the loss is {mean} at step {self.done}; the checkpoint before it is kept:"
                " lower the learning rate, or take precision bf16 where it is fp16"
            )
        if self.run.is_main_process:
            entry = {"step": self.done, "loss": round(mean, 6), "seconds": round(self.seconds, 1)}
            with (self.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """Replace the checkpoint by the present state; a complete one is there at every moment."""
        if self.run.is_main_process:
            scaler = self.run.scaler.state_dict() if self.run.scaler is not None else None
            values = {"step": self.done, "seconds": self.seconds, "scaler": scaler}
            if self.average:
                values["averaged"] = self.average.optimization_step
            keep(self.folder / CHECKPOINT, self.state(), values)
        self.run.wait_for_everyone()

    def state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, which are those in use: the network's, the optimizer's, the average's."""
        tensors = {f"network.{name}": value for name, value in self.bare_network().state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        if self.average:
            tensors |= {f"average.{number}": value for number, value in enumerate(self.average.shadow_params)}
        return tensors

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one; forget log lines of steps that are about to be repeated."""
        checkpoint = kept(self.folder / CHECKPOINT, f"the training of {self.folder.name}")
        if checkpoint is not None:
            try:
                self.take_up(*checkpoint)
            except (LookupError, TypeError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"{self.folder / CHECKPOINT} holds another training's state ({one_line(error)}): delete it, and"
                    f" the training of {self.folder.name} begins again"
                ) from error
        self.began = time.monotonic() - self.seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOG
        if path.exists() and self.run.is_main_process:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            with written_whole(path) as unfinished:
                unfinished.write_text("".join(line for line in lines if _step(line) <= self.done), encoding="utf-8")

    def take_up(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Set everything that changes in training to a checkpoint's state."""
        self.bare_network().load_state_dict(_below("network.", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer.", tensors).items():
            number, _, kind = name.partition(".")
            moments.setdefault(int(number), {})[kind] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.run.scaler is not None:
            self.run.scaler.load_state_dict(values["scaler"])
        if self.average:
            shadows = _below("average.", tensors)
            self.average.load_state_dict(
                {
                    "optimization_step": int(values["averaged"]),
                    "shadow_params": [shadows[str(number)] for number in range(len(self.parameters))],
                }
            )
            self.average.to(self.run.device)
        self.done, self.seconds = int(values["step"]), float(values["seconds"])

    def bare_network(self) -> nn.Module:
        """The network without what Accelerate wrapped it in."""
        bare: nn.Module = self.run.unwrap_model(self.network)
        return bare

    @torch.no_grad()
    def show(self, preview: Callable[[Path], None]) -> None:
        """Draw with the averaged weights, then put the trained ones back."""
        if self.run.is_main_process:
            if self.average:
                self.average.store(self.parameters)
                self.average.copy_to(self.parameters)
            preview(self.folder / f"step-{self.done:06d}.png")
            if self.average:
                self.average.restore(self.parameters)
        self.run.wait_for_everyone()

    def finish(self) -> None:
        """Leave the averaged weights in the network, without what Accelerate wrapped it in."""
        if self.average:
            self.average.copy_to(self.parameters)
        self.run.unwrap_model(self.network, keep_fp32_wrapper=False)


def learning_rate_factor(step: int, config: NetworkTraining) -> float:
    """Linear warm-up to 1; then 1, or half a cosine down to 0 at the last step."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _step(line: str) -> float:
    """The step of a log's line; infinite where the line was cut off by a kill."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
