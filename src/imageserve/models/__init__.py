"""Models by name. Only the runtime that is needed is imported: a stand-in needs not even numpy."""

from dataclasses import replace
from typing import TYPE_CHECKING

from imageserve.models.folder import NO_FACTS, ModelFacts
from imageserve.models.runtimes import RUNTIMES, Engine
from imageserve.models.source import find_source
from imageserve.models.stand_in import is_stand_in, parse_stand_in

if TYPE_CHECKING:
    from imageserve.models.model import Model

__all__ = ["Engine", "load_model"]

_DEFAULT = Engine()


def load_model(
    name: str,
    *,
    weights: str,
    labels_file: str | None,
    given: ModelFacts = NO_FACTS,
    engine: Engine = _DEFAULT,
) -> "Model":
    """Load a model, ready to predict. This can take seconds, and minutes with a download.

    It may run in a thread while another model serves.

    Args:
        name: one of the catalog's names, ``stand-in`` with or without options, or the path of a
            model's file or folder.
        weights: for a network of keras.applications ``imagenet``, ``random`` or the path of a
            weights file; other models bring their own and ignore it.
        labels_file: one label a line, or ImageNet-style JSON; None for the model's own labels.
        given: facts that override what is said beside the model's file. A model that takes another
            ``input_size`` is refused.
        engine: how to run it.

    Raises:
        ModelLoadError: the model cannot be used; the message says what to change.
    """
    if is_stand_in(name):
        return parse_stand_in(name, given)
    source = find_source(name, labels_file, engine.runtime, given)
    runtime = RUNTIMES[source.runtime]
    runtime.check(engine)
    return runtime.module(engine).load(replace(source, weights=weights), engine)
