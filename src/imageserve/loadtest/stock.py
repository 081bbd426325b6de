"""Which pictures a load test sends: generated, read from a folder, or learnt from the target."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from imageserve.loadtest import pictures
from imageserve.loadtest.message import TargetError
from imageserve.loadtest.pictures import Picture, PicturesError
from imageserve.loadtest.scenario import Scenario
from imageserve.loadtest.target import ModelFacts

_ANY_SIZE = (224, 224)
"""Of broken pictures where the target does not tell what its model takes."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is to send to one model."""

    scenario: Scenario
    model: ModelFacts
    images: Path | None
    """The folder of real pictures, if there is one."""

    async def good(self, learnt: Callable[[Picture], Awaitable[Picture]] | None) -> list[Picture]:
        """Return the pictures that must get a label.

        Args:
            learnt: asks the target for its answer to a real picture; None: ``labels.csv`` has it.

        Raises:
            TargetError: the model's input size is not known, or nothing can be learnt.
            PicturesError: there are no pictures, or they cannot be used.
        """
        if source_of(self.scenario, self.model) == "generated":
            return self._generated()
        if self.images is None:
            raise PicturesError(
                "there are no pictures to send: name a folder by --images DIR, with a labels.csv "
                "or with --learn; the source code of imageserve has one, loadtest/images"
            )
        if learnt is None:
            return pictures.pictures_of(self.images)
        return [await learnt(picture) for picture in pictures.unlabelled(self.images)]

    def broken(self) -> list[Picture]:
        """Return the pictures that must get an error."""
        mix = self.scenario.pictures
        kinds = mix.broken if mix.broken_share else ()
        return pictures.broken(kinds, self._size or _ANY_SIZE, self.scenario.seed)

    @property
    def _size(self) -> tuple[int, int] | None:
        """Height and width of what the model takes."""
        size = self.model.input_size
        return (size[0], size[1]) if len(size) == 2 else None

    def _generated(self) -> list[Picture]:
        if self._size is None:
            raise TargetError("the target does not tell its input size; use real pictures")
        return pictures.generated(self.scenario.pictures.distinct, self._size, self.scenario.seed)


def source_of(scenario: Scenario, model: ModelFacts) -> str:
    """Return ``generated`` or ``files``."""
    source = scenario.pictures.source
    if source == "auto":
        return "generated" if model.is_stand_in else "files"
    return source
