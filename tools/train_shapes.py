"""Trains, checks and illustrates the bundled shape classifier, on pictures drawn on the spot.

Run without arguments it trains, and saves the model if that is good enough. `--check` measures
the saved model on new pictures; `--samples DIR` writes labelled sample pictures for load tests.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from draw_shapes import LABELS, draw
from PIL import Image

if TYPE_CHECKING:
    import keras

ByteImages = npt.NDArray[np.uint8]
ClassIds = npt.NDArray[np.int64]

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL_DIR = REPOSITORY / "src" / "imageserve" / "models" / "shapes"
INPUT_SIDE_PX = 96
MIN_ACCURACY = 0.97
BATCH_SIZE = 64
CHUNK_IMAGES = 250

# Far apart, so that training, held-out and check pictures never come from the same generator.
HELDOUT_SEED_OFFSET = 1_000_000
CHECK_SEED_OFFSET = 2_000_000
SAMPLES_SEED_OFFSET = 3_000_000

SAMPLE_MAX_BYTES = 60_000
SAMPLE_MIN_CONFIDENCE = 0.9


class Pictures(NamedTuple):
    """Model inputs and their class numbers, row by row."""

    images: ByteImages
    class_ids: ClassIds


class SampleKind(NamedTuple):
    """How one sample picture is drawn and stored."""

    extension: str
    size: tuple[int, int]
    clean: bool


JPEG_SAMPLE = SampleKind("jpg", (500, 375), clean=False)
# Lossless formats hold flat drawings, as they do in real life: noise would not fit the limit.
OTHER_SAMPLES = {
    ("circle", 2): SampleKind("png", (500, 375), clean=True),
    ("heart", 2): SampleKind("png", (375, 500), clean=True),
    ("triangle", 2): SampleKind("png", (480, 480), clean=True),
    ("checkerboard", 2): SampleKind("png", (400, 300), clean=True),
    ("ring", 2): SampleKind("webp", (500, 375), clean=False),
    ("star", 2): SampleKind("webp", (640, 400), clean=False),
    ("arrow", 2): SampleKind("webp", (375, 500), clean=False),
    ("square", 2): SampleKind("gif", (320, 240), clean=True),
    ("cross", 2): SampleKind("bmp", (160, 120), clean=True),
    ("dots", 2): SampleKind("jpg", (375, 500), clean=False),
    ("spiral", 2): SampleKind("jpg", (640, 360), clean=False),
    ("zigzag", 2): SampleKind("jpg", (500, 375), clean=True),
}


def model_input(image: Image.Image) -> ByteImages:
    """Shrink a picture exactly as the server does before it asks the model."""
    side_px = (INPUT_SIDE_PX, INPUT_SIDE_PX)
    return np.asarray(image.convert("RGB").resize(side_px, Image.Resampling.BILINEAR))


def _draw_chunk(task: tuple[int, int, int]) -> Pictures:
    """Draw one chunk; runs in a worker process."""
    seed, first_index, count = task
    rng = np.random.default_rng([seed, first_index])
    # Cycling through the labels keeps every set balanced.
    class_ids = (np.arange(first_index, first_index + count)) % len(LABELS)
    images = np.stack([model_input(draw(LABELS[int(i)], rng)) for i in class_ids])
    return Pictures(images, class_ids.astype(np.int64))


def draw_set(count: int, seed: int, workers: int) -> Pictures:
    """Draw `count` labelled model inputs; the result does not depend on `workers`."""
    tasks = [(seed, i, min(CHUNK_IMAGES, count - i)) for i in range(0, count, CHUNK_IMAGES)]
    chunks: list[Pictures] = []
    # Spawned, since forking a process that already runs a compute library's threads can hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for chunk in pool.imap(_draw_chunk, tasks):
            chunks.append(chunk)
            if len(chunks) % 10 == 0 or len(chunks) == len(tasks):
                print(f"  drawn {sum(len(c.images) for c in chunks)} of {count}", flush=True)
    images = np.concatenate([chunk.images for chunk in chunks])
    return Pictures(images, np.concatenate([chunk.class_ids for chunk in chunks]))


def _conv_block(x: Any, filters: int, stride: int) -> Any:
    """Apply a separable convolution with a shortcut around it where the shape allows."""
    from keras import layers

    y = layers.SeparableConv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization(momentum=0.95)(y)
    if stride == 1 and x.shape[-1] == filters:
        y = layers.Add()([x, y])
    return layers.ReLU()(y)


def build_model() -> keras.Model:
    """Build the untrained network: 96 x 96 RGB in 0..255 in, one probability per label out."""
    import keras
    from keras import layers

    inputs = keras.Input((INPUT_SIDE_PX, INPUT_SIDE_PX, 3), name="image")
    x = layers.Rescaling(1.0 / 127.5, offset=-1.0)(inputs)
    x = layers.Conv2D(24, 5, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
    for filters, stride in [(40, 2), (40, 1), (72, 2), (72, 1), (72, 1), (128, 2), (128, 1)]:
        x = _conv_block(x, filters, stride)
    # The maximum finds a small shape anywhere; the average weighs up a texture.
    pooled = [layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)]
    x = layers.Dropout(0.2)(layers.Concatenate()(pooled))
    outputs = layers.Dense(len(LABELS), activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="shapes")


def _varied(images: ByteImages, rng: np.random.Generator) -> ByteImages:
    """Flip, turn and recolour a batch in ways that change no label."""
    if rng.random() < 0.5:
        images = images[:, :, ::-1]
    images = np.rot90(images, int(rng.integers(4)), axes=(1, 2))
    images = images[..., rng.permutation(3)]
    return 255 - images if rng.random() < 0.3 else images


def _training_batches(
    pictures: Pictures, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.float32], ClassIds]]:
    """Yield shuffled, varied batches forever."""
    while True:
        order = rng.permutation(len(pictures.images))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            batch = _varied(pictures.images[rows], rng)
            yield np.ascontiguousarray(batch, dtype=np.float32), pictures.class_ids[rows]


def train(pictures: Pictures, epochs: int, seed: int) -> keras.Model:
    """Train the network from scratch, with a fixed seed."""
    import keras

    keras.utils.set_random_seed(seed)
    model = build_model()
    steps = len(pictures.images) // BATCH_SIZE
    schedule = keras.optimizers.schedules.CosineDecay(
        2e-4, epochs * steps, alpha=0.01, warmup_target=3e-3, warmup_steps=steps // 2
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = _training_batches(pictures, np.random.default_rng(seed))
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=2)
    return model


def predict(model: keras.Model, images: ByteImages) -> npt.NDArray[np.float32]:
    """Return the probabilities (rows of `LABELS` columns) for model inputs."""
    parts = [
        np.asarray(model.predict_on_batch(images[start : start + 250].astype(np.float32)))
        for start in range(0, len(images), 250)
    ]
    return np.concatenate(parts)


def report_accuracy(model: keras.Model, pictures: Pictures) -> float:
    """Print the accuracy, overall and per label with the commonest mistake, and return it."""
    probabilities = predict(model, pictures.images)
    guesses = probabilities.argmax(axis=1)
    correct = guesses == pictures.class_ids
    for class_id, label in enumerate(LABELS):
        of_label = pictures.class_ids == class_id
        wrong = guesses[of_label & ~correct]
        mistake = ""
        if len(wrong):
            mistake = f"   most often taken for: {LABELS[int(np.bincount(wrong).argmax())]}"
        print(f"  {label:<14}{correct[of_label].mean():7.2%}{mistake}")
    accuracy = float(correct.mean())
    confidence = float(np.median(probabilities.max(axis=1)))
    print(f"accuracy {accuracy:.2%} on {len(correct)} pictures, median confidence {confidence:.3f}")
    return accuracy


def save(model: keras.Model, model_dir: Path) -> None:
    """Write the model and its labels."""
    model_dir.mkdir(parents=True, exist_ok=True)
    # A fresh, never compiled copy holds no optimizer state, a third of the size.
    bare = build_model()
    bare.set_weights(model.get_weights())
    bare.save(model_dir / "shapes.keras")
    (model_dir / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    size_kb = (model_dir / "shapes.keras").stat().st_size / 1000
    print(f"wrote {model_dir / 'shapes.keras'} ({size_kb:.0f} kB) and labels.txt")


def load(model_dir: Path) -> keras.Model:
    """Load the saved model, insisting that its labels are the ones drawn here."""
    import keras

    saved_labels = (model_dir / "labels.txt").read_text(encoding="utf-8").split("\n")
    if tuple(filter(None, saved_labels)) != LABELS:
        sys.exit(f"{model_dir / 'labels.txt'} differs from LABELS in draw_shapes.py: train again")
    model: keras.Model = keras.saving.load_model(model_dir / "shapes.keras", compile=False)
    return model


def run_training(args: argparse.Namespace) -> int:
    """Draw, train, measure, and save when the held-out accuracy is high enough."""
    started_s = time.perf_counter()
    print(f"drawing {args.train_images} training pictures")
    training = draw_set(args.train_images, args.seed, args.workers)
    print(f"drawing {args.heldout_images} held-out pictures")
    heldout = draw_set(args.heldout_images, args.seed + HELDOUT_SEED_OFFSET, args.workers)
    model = train(training, args.epochs, args.seed)
    print(f"held-out accuracy after {time.perf_counter() - started_s:.0f} s:")
    if report_accuracy(model, heldout) < MIN_ACCURACY:
        print(f"below {MIN_ACCURACY:.0%}: nothing written", file=sys.stderr)
        return 1
    save(model, args.model_dir)
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Measure the saved model on pictures that neither training nor its test has seen."""
    model = load(args.model_dir)
    print(f"drawing {args.heldout_images} pictures")
    fresh = draw_set(args.heldout_images, args.seed + CHECK_SEED_OFFSET, args.workers)
    accuracy = report_accuracy(model, fresh)
    _report_speed(model, fresh.images[:32])
    if accuracy < MIN_ACCURACY:
        print(f"below {MIN_ACCURACY:.0%}", file=sys.stderr)
        return 1
    return 0


def _report_speed(model: keras.Model, images: ByteImages) -> None:
    """Print the time per picture in one batch, the fastest of several tries."""
    tries_s = []
    for _ in range(10):
        started_s = time.perf_counter()
        predict(model, images)
        tries_s.append(time.perf_counter() - started_s)
    print(f"{min(tries_s) / len(images) * 1000:.2f} ms per picture in a batch of {len(images)}")


def _encoded(image: Image.Image, extension: str) -> bytes:
    """Encode a picture, at the best quality that fits the size limit."""
    if extension == "gif":
        image = image.quantize(64)
    image_format = {"jpg": "JPEG"}.get(extension, extension.upper())
    for quality in range(88, 20, -6):
        buffer = io.BytesIO()
        image.save(buffer, format=image_format, quality=quality)
        if buffer.tell() < SAMPLE_MAX_BYTES:
            break
    return buffer.getvalue()


def _sample(model: keras.Model, label: str, kind: SampleKind, rng: np.random.Generator) -> bytes:
    """Draw until the model is sure of the right label, judging the encoded bytes."""
    for _ in range(100):
        data = _encoded(draw(label, rng, kind.size, clean=kind.clean), kind.extension)
        with Image.open(io.BytesIO(data)) as decoded:
            probabilities = predict(model, model_input(decoded)[None])[0]
        sure = probabilities[LABELS.index(label)] >= SAMPLE_MIN_CONFIDENCE
        if sure and len(data) < SAMPLE_MAX_BYTES:
            return data
    sys.exit(f"no {label} sample that the model is sure of; train it longer")


def run_samples(args: argparse.Namespace) -> int:
    """Write two pictures per label and a table of their labels."""
    model = load(args.model_dir)
    rng = np.random.default_rng(args.seed + SAMPLES_SEED_OFFSET)
    args.samples.mkdir(parents=True, exist_ok=True)
    rows = []
    for label in LABELS:
        for number in (1, 2):
            kind = OTHER_SAMPLES.get((label, number), JPEG_SAMPLE)
            name = f"{label}-{number}.{kind.extension}"
            (args.samples / name).write_bytes(_sample(model, label, kind, rng))
            rows.append((name, label))
    with (args.samples / "labels.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([("file", "label"), *rows])
    print(f"wrote {len(rows)} pictures and labels.csv to {args.samples}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train the bundled shape classifier on pictures that this script draws itself. "
        f"The model is saved only when it labels at least {MIN_ACCURACY:.0%} of a separate "
        "held-out set correctly; otherwise the exit status is 1.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    task = parser.add_mutually_exclusive_group()
    check_help = "do not train: measure the saved model on freshly drawn pictures"
    task.add_argument("--check", action="store_true", help=check_help)
    samples_help = "do not train: write two sample pictures per label and labels.csv to DIR"
    task.add_argument("--samples", type=Path, metavar="DIR", help=samples_help)
    option = parser.add_argument
    option("--train-images", type=int, default=28_000, metavar="N", help="pictures to train on")
    option("--heldout-images", type=int, default=4_200, metavar="N", help="pictures to test on")
    option("--epochs", type=int, default=16, metavar="N", help="passes over the training set")
    option("--seed", type=int, default=7, metavar="N", help="seed of all randomness")
    option("--workers", type=int, default=os.cpu_count(), metavar="N", help="drawing processes")
    model_help = "folder of shapes.keras and labels.txt"
    option("--model-dir", type=Path, default=MODEL_DIR, metavar="DIR", help=model_help)
    return parser


def main() -> int:
    """Run the task that the command line asks for."""
    args = _parser().parse_args()
    if args.check:
        return run_check(args)
    if args.samples:
        return run_samples(args)
    return run_training(args)


if __name__ == "__main__":
    sys.exit(main())
