"""Keras on TensorFlow, as its guide to transfer learning has it: `keras.applications`, `fit`, `predict`, `tf.data`.

In: a job; the contender `keras-bf16` sets the policy mixed_bfloat16, `keras` leaves float32. Out: one JSON line. Writes: for
`data_cached`, `pixels.tfrecord` in the work folder.

As in that guide the input passes the network's own `preprocess_input`, the base runs with `training=False` (batch
normalisation keeps its statistics), is pooled, and one Dense layer follows; all weights are trained with Adam. Keras has no
AlexNet: its layers are written out here. Pixels lie in memory and no image is augmented.

    python -m contenders.keras_tutorial train --contender keras --architecture resnet50 --work FOLDER
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import applications, layers

from contenders.measuring import PIXELS_FILE, Clock, Job, Measured, run, timed

_CLASSES = 2
_LEARNING_RATE = 1e-4
_SHUFFLE_BUFFER = 256
_BASES: dict[str, tuple[Callable[..., Any], Any]] = {
    "vgg16": (applications.VGG16, applications.vgg16),
    "resnet50": (applications.ResNet50, applications.resnet50),
    "densenet121": (applications.DenseNet121, applications.densenet),
    "efficientnet_b0": (applications.EfficientNetB0, applications.efficientnet),
}


class Ticking(keras.callbacks.Callback):
    """Ticks the clock after each batch of `fit` and `predict`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """One step of `fit`."""
        self.clock.tick()

    def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
        """One step of `predict`."""
        self.clock.tick()


def train(job: Job) -> Measured:
    """Steps of `fit`."""
    clock = Clock(job.batch, job.seconds)
    model = _built(job, with_head=True)
    model.compile(
        optimizer=keras.optimizers.Adam(_LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    pixels = job.few_pixels()
    data = tf.data.Dataset.from_tensor_slices((pixels, np.arange(len(pixels)) % _CLASSES)).repeat()
    data = data.batch(job.batch).prefetch(tf.data.AUTOTUNE)
    return timed(clock, lambda: model.fit(data, callbacks=[Ticking(clock)], verbose=0), f"fit, {_policy()}")


def features(job: Job) -> Measured:
    """Steps of `predict` of the pooled base."""
    return _predict(job, with_head=False)


def infer(job: Job) -> Measured:
    """Steps of `predict`."""
    return _predict(job, with_head=True)


def data_cold(job: Job) -> Measured:
    """A tf.data pipeline over image files, in parallel as TensorFlow sees fit."""
    files = job.cells()

    def read(path: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_bmp(tf.io.read_file(path), channels=3)
        side = (job.input_px, job.input_px)
        return tf.cast(tf.round(tf.image.resize(pixels, side, antialias=True)), tf.uint8)

    data = tf.data.Dataset.from_tensor_slices(files).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(job.batch).prefetch(tf.data.AUTOTUNE)
    clock = Clock(len(files), job.seconds)

    def work() -> None:
        while True:
            for _ in data:
                pass
            clock.tick()

    return timed(clock, work, "tf.data, decode_bmp and antialiased bilinear resize")


def data_cached(job: Job) -> Measured:
    """Shuffled batches from one TFRecord file of raw pixels."""
    path = job.work / "pixels.tfrecord"
    pixels = job.pixels()
    if not path.is_file() or path.stat().st_mtime < (job.work / PIXELS_FILE).stat().st_mtime:
        _write_tfrecord(path, pixels)
    wanted = {"pixels": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.io.parse_single_example(record, wanted)
        return tf.reshape(tf.io.decode_raw(row["pixels"], tf.uint8), pixels.shape[1:]), row["label"]

    data = tf.data.TFRecordDataset(str(path)).repeat().shuffle(_SHUFFLE_BUFFER).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(job.batch).prefetch(tf.data.AUTOTUNE)
    clock = Clock(job.batch, job.seconds)

    def work() -> None:
        for _ in data:
            clock.tick()

    return timed(clock, work, f"TFRecordDataset, shuffle buffer of {_SHUFFLE_BUFFER}")


def _write_tfrecord(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in pixels:
            raw = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[0]))
            row = tf.train.Example(features=tf.train.Features(feature={"pixels": raw, "label": label}))
            writer.write(row.SerializeToString())


def _predict(job: Job, *, with_head: bool) -> Measured:
    clock = Clock(job.batch, job.seconds)
    model = _built(job, with_head=with_head)
    pixels = job.few_pixels()

    def work() -> None:
        while True:
            model.predict(pixels, batch_size=job.batch, callbacks=[Ticking(clock)], verbose=0)

    return timed(clock, work, f"predict, {_policy()}")


def _built(job: Job, *, with_head: bool) -> keras.Model:
    if job.contender == "keras-bf16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    shape = (job.input_px, job.input_px, 3)
    inputs = keras.Input(shape=shape)
    if job.architecture == "alexnet":
        pooled = layers.GlobalAveragePooling2D()(_alexnet(shape)(layers.Rescaling(1 / 127.5, offset=-1)(inputs)))
    else:
        base, module = _BASES[job.architecture]
        network = base(include_top=False, weights=None, input_shape=shape)
        pooled = layers.GlobalAveragePooling2D()(network(module.preprocess_input(inputs), training=False))
    outputs = layers.Dense(_CLASSES, dtype="float32")(pooled) if with_head else pooled
    return keras.Model(inputs, outputs)


def _alexnet(shape: tuple[int, int, int]) -> keras.Model:
    """The convolutions of torchvision's AlexNet."""
    return keras.Sequential([
        keras.Input(shape=shape),
        layers.ZeroPadding2D(2), layers.Conv2D(64, 11, strides=4, activation="relu"), layers.MaxPooling2D(3, 2),
        layers.Conv2D(192, 5, padding="same", activation="relu"), layers.MaxPooling2D(3, 2),
        layers.Conv2D(384, 3, padding="same", activation="relu"),
        layers.Conv2D(256, 3, padding="same", activation="relu"),
        layers.Conv2D(256, 3, padding="same", activation="relu"), layers.MaxPooling2D(3, 2),
    ])  # fmt: skip


def _policy() -> str:
    return str(keras.mixed_precision.dtype_policy().name)


if __name__ == "__main__":
    tasks = {"train": train, "features": features, "infer": infer, "data_cold": data_cold, "data_cached": data_cached}
    run(tasks, ["tensorflow", "keras"])
