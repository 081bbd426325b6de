"""What the numbers are that a model answers with, by the last operation that makes them. Pure."""

SOFTMAX = "softmax"
SIGMOID = "sigmoid"
LOGITS = "logits"
"""The numbers before a softmax, or their logarithms after it."""
OTHER = ""
"""Not known: the numbers themselves have to tell."""


def not_served(name: str, head: str, classes: int | None) -> str | None:
    """Say why a model of this head and number of classes is not served; None where it may be.

    An unknown number of classes, or an unknown head, may be.
    """
    if head == SIGMOID:
        return (
            f"{name} ends in a sigmoid, which gives each label a number of its own: such models "
            "are not served yet"
        )
    if classes != 1:
        return None
    if head == LOGITS:
        return (
            f"{name} answers with one number a picture, for a yes or no or a measure: such models "
            "are not served yet"
        )
    return (
        f"{name} has one class, so all pictures would get the same answer: train it with two "
        "classes or more, one output for each"
    )


def no_probabilities(name: str, head: str, lowest: float, highest: float, total: float) -> str:
    """Say what the answers of a model are that are not probabilities, and what to do.

    ``lowest`` and ``highest`` are of all numbers; ``total`` is the sum of a row farthest from 1.
    """
    if lowest >= 0 and abs(total - 1) < 0.05:
        return (
            f"{name} answers with probabilities that add up to {total:.3g}: let its last layer "
            "compute in float32 (in Keras with dtype='float32'), and write the file anew"
        )
    if head == SOFTMAX:
        return (
            f"{name} has a softmax that does not run over the classes: let it run over the last "
            "axis, and write the file anew"
        )
    if head == OTHER and lowest >= 0 and highest <= 1:
        return (
            f"{name} answers with numbers from 0 to 1 that do not add up to 1, as sigmoids do: "
            "such models are not served yet"
        )
    return (
        f"{name} does not answer with probabilities but with logits, which are not served yet: "
        "end it with a softmax (keras.layers.Softmax() or torch.nn.Softmax(1)), and write the "
        "file anew"
    )
