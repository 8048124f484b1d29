"""Phase two: the whole network is fine-tuned, the backbone at a lower rate than the head, through Lightning.

In: a classifier whose head is fitted, cached pixels, rows and labels of two sides. Out: the epochs and the best one.
Writes: `resume/last.safetensors` (everything that is needed to go on) and `resume/best.safetensors` (the best weights so
far) in the run directory, after every epoch; where the last epochs are to be averaged also `resume/epoch-<n>.safetensors`.

An unbroken run and one that was killed and started again give the same result: the order of the images, the augmentation,
the mixing and the dropout of epoch n are drawn from generators seeded by (seed, n).

Several processes, which torchrun starts, take the steps that one would take: each computes its share of every batch, and
the gradient is that of the whole batch. Only the first writes.
"""

from __future__ import annotations

import inspect
import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from leukolens.artifacts import atomic_path
from leukolens.data.augmentation import augment
from leukolens.models.classifier import Backbone, Classifier
from leukolens.models.compute import Compute
from leukolens.models.frozen_norms import folded_norms
from leukolens.processes import Processes, started_processes
from leukolens.progress import Advance, logger, progress
from leukolens.settings import TrainSettings
from leukolens.training.averaging import epoch_file, epochs_to_average, load_average, moving_average
from leukolens.training.batches import Batch, ShuffledBatches, TrainingImages, share_of, training_loader, validation_loader
from leukolens.training.checkpoints import SafetensorsCheckpoints
from leukolens.training.losses import mix_up, training_loss
from leukolens.training.process_group import BACKENDS, summed
from leukolens.training.selection import Epoch, Selection, class_weights, validation_epoch

RESUME_FOLDER = "resume"
LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"

# Seeds of epochs must not collide between runs with neighbouring seeds.
_SEED_STRIDE = 1_000_003

CPU = torch.device("cpu")


@dataclass(frozen=True)
class FineTuned:
    """All `epochs` of the fine-tuning and the best one's `selection`; its weights are in BEST_FILE.

    Where the last epochs were averaged, the last row is that of their average; `averaged_epochs` says how many went into
    it where it was best, else 0.
    """

    epochs: list[Epoch]
    selection: Selection
    averaged_epochs: int = 0


def fine_tune(
    classifier: Classifier, images: TrainingImages, settings: TrainSettings, compute: Compute, folder: Path
) -> FineTuned:
    """Fine-tune from the fitted head on, or go on from the last epoch in `folder`.

    The classifier as it comes in is the checkpoint to beat only among the epochs of this phase; the caller compares the
    result with phase one.
    """
    if settings.trainable == "last_block":
        classifier.backbone.freeze_all_but_last_stage()
    classifier.to(memory_format=torch.channels_last).train()
    tuning = FineTuning(classifier, images, settings)
    keeper = EpochKeeper(folder / RESUME_FOLDER, settings)
    last = folder / RESUME_FOLDER / LAST_FILE
    steps = math.ceil(len(images.train_rows) / settings.batch_size) * settings.finetune_epochs
    shown = progress(f"{settings.architecture}: fine-tuning", steps)
    with torch.random.fork_rng(), warnings.catch_warnings(), shown as advance:
        # Lightning advises worker processes; the pixels are memory-mapped and cost microseconds, workers would only copy.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Batch normalisation stays on its pretrained statistics on purpose.
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
        # Lightning 2.6 asks newer PyTorch for the kind of a leaf in a way that is going out of use.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        tuning.advance = advance
        trainer = _trainer(settings, compute, keeper, tuning.processes)
        # Measured on processors only.
        with folded_norms(classifier, settings.input_px) if compute.device == "cpu" else nullcontext(), _ctrl_c_kept():
            loaders = tuning.loaders(trainer.strategy.root_device)
            trainer.fit(tuning, *loaders, ckpt_path=last if last.is_file() else None)
        tuned = _with_average(trainer, tuning, keeper) if settings.swa_epochs else FineTuned(keeper.epochs, keeper.best)
    classifier.eval()
    return tuned


class FineTuning(pl.LightningModule):
    """Losses, rates and augmentation of the fine-tuning."""

    loss_weights: Tensor | None

    def __init__(self, classifier: Classifier, images: TrainingImages, settings: TrainSettings) -> None:
        super().__init__()
        self.classifier = classifier
        self.images = images
        self.settings = settings
        weights = class_weights(images.train_labels, classifier.head.out_features, settings)
        self.register_buffer("loss_weights", weights, persistent=False)
        self.processes = started_processes()
        self.shuffled = ShuffledBatches(len(images.train_rows), settings.batch_size, settings.seed, self.processes)
        self.advance: Advance | None = None
        # A part of this module, and so of what a resumed run goes on from.
        self.averaged = moving_average(classifier, settings.ema_decay) if settings.ema_decay else None
        self.train_losses: list[Tensor] = []
        self.validation_logits: list[Tensor] = []

    def loaders(self, device: torch.device = CPU) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        """Training batches, shuffled anew each epoch, and validation batches in order; on `device` if it has room."""
        validation = validation_loader(self.images, self.settings.batch_size, device, self.processes)
        return training_loader(self.images, self.shuffled, device), validation

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of a dozen forms
        """AdamW with a lower rate for the backbone; linear warm-up, then cosine decay, per step."""
        settings, classifier = self.settings, self.classifier
        groups = [
            *stage_groups(classifier.backbone, self._backbone_rate(), settings.layer_decay),
            {"params": list(classifier.head.parameters()), "lr": settings.finetune_head_learning_rate},
        ]
        # Fused: one pass over all weights, 3 to 6 times as fast as a loop over them on a processor.
        optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
        steps = math.ceil(len(self.images.train_rows) / settings.batch_size) * settings.finetune_epochs
        warmup = max(1, round(settings.warmup_fraction * steps))

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning draws the first batch of a resumed run before it says which epoch it is."""
        self.shuffled.set_epoch(checkpoint["epoch"] + 1)

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the epoch before."""
        self.train_losses = []

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed the epoch, so that its dropout and augmentation do not depend on what ran before.

        Here and not at the start of the epoch: between the two, a loader draws from the global generator, and in a
        resumed run it does not.
        """
        if batch_index == 0:
            seed = epoch_seed(self.settings.seed, self.current_epoch, self.processes.rank)
            torch.manual_seed(seed)
            self.augmentation_generator = torch.Generator().manual_seed(seed)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Class-weighted loss of an augmented batch, of several processes one's share of it."""
        levels, labels = batch
        augmented = augment(levels, self.settings.augmentation_of_input, self.augmentation_generator)
        loss = self._loss(augmented, labels)
        if self.processes.are_several:
            loss = loss * self._weight_of_share(labels)
        self.train_losses.append(loss.detach())
        if self.advance:
            self.advance()
        return loss

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_index: int) -> None:
        """Let the moving average follow the step."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.classifier)

    @property
    def judged(self) -> Classifier:
        """The network that validation sees and that is kept: the one that is trained, or its moving average."""
        return self.classifier if self.averaged is None else cast("Classifier", self.averaged.module)

    def on_validation_epoch_start(self) -> None:
        """Forget the logits of the epoch before; of several processes, all go on with the same batch statistics."""
        self.validation_logits = []
        if self.processes.are_several:
            self._average_statistics()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep the logits: the epoch is judged on all of them together."""
        features = self.judged.features(batch[0])
        # The head in float32, as `predict` has it.
        with torch.autocast(features.device.type, enabled=False):
            self.validation_logits.append(self.judged.head(features.float()))

    def judge(self) -> Epoch:
        """Judge the epoch that has just ended; of several processes, all must call it."""
        labels = torch.from_numpy(self.images.validation_labels).to(self.device)
        logits = torch.cat(self.validation_logits)
        if self.processes.are_several:
            logits = self._gathered(logits)
        return validation_epoch("finetune", self.current_epoch + 1, logits, labels, self.loss_weights)

    def train_loss(self) -> float:
        """Mean loss over the steps of the epoch; of several processes, all must call it."""
        losses = torch.stack(self.train_losses)
        if self.processes.are_several:
            losses = summed(losses) / self.processes.count
        return float(losses.mean())

    def _loss(self, levels: Tensor, labels: Tensor) -> Tensor:
        """The loss that the settings name, of mixed images the sum over both their labels by their shares."""
        settings, weights = self.settings, self.loss_weights
        if not settings.mixup_alpha:
            return training_loss(self.classifier(levels).float(), labels, weights, settings)
        mixed = mix_up(levels, settings.mixup_alpha, self.augmentation_generator)
        logits = self.classifier(mixed.levels).float()
        own, partners = (training_loss(logits, each, weights, settings) for each in (labels, labels[mixed.partners]))
        return mixed.share * own + (1 - mixed.share) * partners

    def _weight_of_share(self, labels: Tensor) -> Tensor:
        """What the loss of this share is multiplied by, so that the processes' mean gradient is that of the whole batch.

        Cross-entropy divides by the class weights of the images it sees. The whole batch would be divided by the weights
        of all its images: this share counts for its part of them, times the number of processes that the mean divides by.
        """
        weights = torch.ones_like(labels, dtype=torch.float32) if self.loss_weights is None else self.loss_weights[labels]
        own = weights.sum()
        return own / summed(own) * self.processes.count

    def _gathered(self, logits: Tensor) -> Tensor:
        """Logits of all validation images from every process's share: others' rows are 0 here, so the sum is exact."""
        share = share_of(np.arange(len(self.images.validation_rows)), self.processes)
        whole = logits.new_zeros((len(self.images.validation_rows), logits.shape[1]))
        whole[torch.from_numpy(share)] = logits
        return summed(whole)

    def _average_statistics(self) -> None:
        """Give all processes the mean of their running means and variances, which each has of its own shares.

        Pretrained statistics are frozen and the same everywhere; those of a backbone of random weights are not.
        """
        for buffer in (*self.classifier.buffers(), *(self.judged.buffers() if self.averaged is not None else ())):
            if buffer.is_floating_point():
                buffer.copy_(summed(buffer) / self.processes.count)

    def _backbone_rate(self) -> float:
        """A backbone of random weights has nothing to lose and learns at a higher rate."""
        settings = self.settings
        is_pretrained = self.classifier.norm_layers_frozen
        return settings.backbone_learning_rate if is_pretrained else settings.scratch_learning_rate


class EpochKeeper(pl.Callback):
    """Records epochs, keeps the best weights on disk, writes what is needed to go on, and stops when patience runs out."""

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.epochs: list[Epoch] = []
        self.best = Selection()
        self.began = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge, keep, and decide whether to go on; the state is written last, when the rest is safe."""
        if not isinstance(pl_module, FineTuning):
            raise TypeError(f"EpochKeeper works with FineTuning, received {type(pl_module)}")
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch = pl_module.judge().finished(pl_module.train_loss(), rate, time.perf_counter() - self.began)
        self.epochs.append(epoch)
        if epoch.selection() > self.best:
            self.best = epoch.selection()
            if trainer.is_global_zero:
                save_weights(pl_module.judged, self.folder / BEST_FILE)
        if self.settings.swa_epochs and trainer.is_global_zero:
            self._keep_for_average(pl_module.classifier)
        # The leader's word: on another kind of processor a loss may round to another side of a tie.
        trainer.should_stop = trainer.strategy.broadcast(self._is_out_of_patience())
        name, score = self.settings.architecture, epoch.validation_balanced_accuracy
        logger.info("%s: epoch %d of %d, validation balanced accuracy %.3f", name, epoch.epoch, trainer.max_epochs, score)
        trainer.save_checkpoint(self.folder / LAST_FILE)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what a resumed run has behind it; one that was killed after its last epoch has nothing left to train."""
        if isinstance(pl_module, FineTuning) and pl_module.advance and trainer.global_step:
            pl_module.advance(trainer.global_step)
        lay_out_moments(trainer.optimizers[0])
        trainer.should_stop = self._is_out_of_patience()

    def _keep_for_average(self, classifier: Classifier) -> None:
        """Keep the weights of this epoch, and no more epochs than the average takes."""
        save_weights(classifier, epoch_file(self.folder, len(self.epochs)))
        epoch_file(self.folder, len(self.epochs) - self.settings.swa_epochs).unlink(missing_ok=True)

    def _is_out_of_patience(self) -> bool:
        if not self.epochs:
            return False
        best = max(range(len(self.epochs)), key=lambda position: self.epochs[position].selection())
        return len(self.epochs) - 1 - best >= self.settings.patience

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"epochs": [epoch.to_record() for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.epochs = [Epoch(**record) for record in state_dict["epochs"]]
        self.best = max((epoch.selection() for epoch in self.epochs), default=Selection())


def stage_groups(backbone: Backbone, rate: float, layer_decay: float) -> list[dict[str, Any]]:
    """Weights of a backbone that are trained, with their rates, the last stage first: its rate is `rate` itself.

    Each stage below has `layer_decay` times the rate of the one above it. Without decay all are one group.
    """
    if layer_decay == 1:
        return [{"params": [weight for weight in backbone.parameters() if weight.requires_grad], "lr": rate}]
    stages = [
        [weight for part in parts for weight in part.parameters() if weight.requires_grad]
        for parts in reversed(backbone.stage_modules())
    ]
    return [{"params": weights, "lr": rate * layer_decay**above} for above, weights in enumerate(stages) if weights]


def lay_out_moments(optimiser: torch.optim.Optimizer) -> None:
    """Give the moments of each weight the weight's own memory format, which a checkpoint does not keep.

    Fused AdamW of PyTorch 2.15 goes through all of them by address: with weights channels last and moments contiguous, as
    they come from a file, it would take every weight's moments for another's, and say nothing.
    """
    for weight, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of the augmentation and dropout of one epoch in one process: others' images are turned by other angles."""
    if rank == 0:
        return seed * _SEED_STRIDE + epoch
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def save_weights(classifier: Classifier, path: Path) -> None:
    """Write the classifier's weights as safetensors, float32."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def _with_average(trainer: pl.Trainer, tuning: FineTuning, keeper: EpochKeeper) -> FineTuned:
    """Judge the average of the last epochs like an epoch of its own, and keep it where it is best."""
    wished = epochs_to_average(len(keeper.epochs), tuning.settings.swa_epochs)
    if not wished:
        logger.info("%s: one epoch was trained, too few for an average", tuning.settings.architecture)
        return FineTuned(keeper.epochs, keeper.best)
    began = time.perf_counter()
    load_average(tuning.classifier, keeper.folder, wished)
    with _ctrl_c_kept():
        trainer.validate(tuning, tuning.loaders(trainer.strategy.root_device)[1], verbose=False)
    judged = replace(tuning.judge(), epoch=len(keeper.epochs) + 1)
    average = judged.finished(math.nan, math.nan, time.perf_counter() - began)
    score = average.validation_balanced_accuracy
    logger.info("%s: average of %d epochs, validation balanced accuracy %.3f", keeper.settings.architecture, len(wished), score)
    is_best = average.selection() > keeper.best
    if is_best and trainer.is_global_zero:
        save_weights(tuning.classifier, keeper.folder / BEST_FILE)
    best = max(average.selection(), keeper.best)
    return FineTuned([*keeper.epochs, average], best, len(wished) if is_best else 0)


@contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """Ctrl-C stays KeyboardInterrupt, which Lightning would turn into SystemExit while leaving Ctrl-C ignored."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from stopped
        raise


def _trainer(settings: TrainSettings, compute: Compute, keeper: EpochKeeper, processes: Processes) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(compute.device, compute.device),
        devices=processes.per_host,
        num_nodes=processes.hosts,
        strategy=_strategy(compute, processes),
        # Our own sampler shares the images out; Lightning's would repeat some to make the shares equal.
        use_distributed_sampler=False,
        precision="bf16-mixed" if compute.precision == "bf16" else "32-true",
        max_epochs=settings.finetune_epochs,
        callbacks=[keeper],
        plugins=[SafetensorsCheckpoints()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _strategy(compute: Compute, processes: Processes) -> Strategy | str:
    """Several processes average their gradients; buffers are left alone, see `FineTuning._average_statistics`.

    Sent with every forward pass, they would also make processes wait that have fewer validation batches than others.
    """
    if not processes.are_several:
        return "auto"
    # The same wish under its name since PyTorch 2.15, which warns of the older one, and before.
    known = inspect.signature(DistributedDataParallel).parameters
    unsent: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DDPStrategy(process_group_backend=BACKENDS[compute.device], **unsent)
