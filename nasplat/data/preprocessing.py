"""What is done to the pixels of a picture before a network sees them, as those who use it elsewhere must know it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a network's input: resized, scaled to `white`, less `mean`, divided by `std`.

    Args:
        channels: 3 for red, green and blue, 1 for grey.
        height: What it is resized to, in pixels; None if any will do.
        width: Likewise.
        mean: For each channel, in 0..white.
        std: Likewise.
        white: The value of the brightest pixel.
        classes: The names of the outputs, in order; none for networks that enlarge pictures.
    """

    channels: int
    height: int | None
    width: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float = 255.0
    classes: tuple[str, ...] = ()
