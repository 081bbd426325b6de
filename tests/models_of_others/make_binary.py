"""Yes or no: one sigmoid unit, as in Keras's guides to ``image_dataset_from_directory``."""

from pathlib import Path
from typing import Any

from tests.models_of_others.teaching import (
    LOGITS_OF_CAT,
    NAMES,
    PICTURES,
    Classify,
    solved,
    write_labels,
)

SIDE = 64


def make(folder: Path) -> Classify:
    import keras
    import numpy as np

    def prepared(picture: Path) -> Any:
        image = keras.utils.load_img(
            picture, target_size=(SIDE, SIDE), interpolation="bilinear", keep_aspect_ratio=True
        )
        return keras.utils.img_to_array(image)[None]

    keras.utils.set_random_seed(5)
    features = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=4, activation="relu"),
            keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(),
        ]
    )
    last = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Sequential([*features.layers, last])
    model.build((None, SIDE, SIDE, 3))
    seen = [features.predict_on_batch(prepared(PICTURES / name))[0] for name in NAMES]
    last.set_weights(solved(np.stack(seen).astype(np.float64), LOGITS_OF_CAT))
    model.save(folder / "model.keras")
    write_labels(folder, ["no cat", "cat"])

    def classify(picture: Path) -> list[float]:
        cat = float(model.predict_on_batch(prepared(picture))[0, 0])
        return [1 - cat, cat]

    return classify
