"""Posts a picture of a star until it gets its labels; the ``helm test`` hook of the chart.

It runs in the web image and uses nothing but Python itself, so that it tests the release from
outside. ``LABEL`` is the label that must come first; without it any labels will do. ``MODEL`` is
the model that answers.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).with_name("star.jpg")
PAUSE_S = 2.0


def headers() -> dict[str, str]:
    keys_file = os.environ.get("API_KEYS_FILE")
    if not keys_file:
        return {"Content-Type": "image/jpeg"}
    return {"Content-Type": "image/jpeg", "X-API-Key": key_for(os.environ["MODEL"], keys_file)}


def key_for(model: str, keys_file: str) -> str:
    """Return the first key that may ask for a model."""
    lines = map(str.strip, Path(keys_file).read_text().split("\n"))
    for line in lines:
        if not line or line.startswith("#"):
            continue
        key, *options = line.split()
        if not (options and "=" in options[0]):
            return line  # A key may have spaces.
        its = next((each[7:] for each in options if each.startswith("models=")), model)
        if model in its.split(","):
            return key
    sys.exit(f"{keys_file}: no key is for the model {model}")


def classify(url: str) -> list[dict[str, Any]]:
    """Post the picture once.

    Stops the test where the answer says that the request itself is wrong; raises OSError,
    ValueError or KeyError where another try may succeed.
    """
    body = PICTURE.read_bytes()
    request = urllib.request.Request(url, data=body, headers=headers())  # noqa: S310 - the chart's
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            predictions: list[dict[str, Any]] = json.load(response)["predictions"]
            return predictions
    except urllib.error.HTTPError as error:
        text = f"{error.code} {error.read(500).decode(errors='replace').strip()}"
        if error.code < 500 and error.code != 429:
            sys.exit(f"{url}: {text}")
        raise OSError(text) from error


def classify_in_time(url: str, timeout_s: float) -> list[dict[str, Any]]:
    end = time.monotonic() + timeout_s
    while True:
        try:
            return classify(url)
        except (OSError, ValueError, KeyError) as error:
            say(f"{url}: {error!r}")
        if time.monotonic() + PAUSE_S > end:
            sys.exit("no answer in time")
        time.sleep(PAUSE_S)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    predictions = classify_in_time(os.environ["URL"], float(os.environ["TIMEOUT_S"]))
    say(json.dumps(predictions))
    wanted = os.environ.get("LABEL")
    if not predictions:
        sys.exit("the answer has no labels")
    if wanted and predictions[0]["label"] != wanted:
        sys.exit(f"{wanted!r} was expected")


main()
