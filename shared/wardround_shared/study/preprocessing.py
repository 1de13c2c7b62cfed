"""`[preprocessing]`: the ordered recipe from a raw record to a tensor."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wardround_shared.study.section import Section


class Impute(Section):
    """Fill missing numeric values with the mean over all sites; optionally say where it was."""

    name: Literal["impute"]
    indicator: bool = True


class Standardise(Section):
    """Subtract the mean and divide by the standard deviation, both summed over all sites.

    Per feature for tables and records, per channel for images and signals.
    """

    name: Literal["standardise"]
    part: Literal["main", "static"] = "main"


class Fill(Section):
    """Fill what was not observed in records over time with the mean over all sites.

    The mean is the zero of `standardise`, which counts what was observed only.

    Attributes:
        half_life_days: with it, the last value before, which comes halfway to the mean in so
            many days; where there is none, the mean.
    """

    name: Literal["fill"]
    half_life_days: float | None = Field(default=None, gt=0)


class OneHot(Section):
    """Replace each categorical column by one column per category."""

    name: Literal["one-hot"]


class Resize(Section):
    """Resize an image to `size` = [height, width] pixels by area-weighted interpolation."""

    name: Literal["resize"]
    size: tuple[Annotated[int, Field(ge=8, le=1024)], Annotated[int, Field(ge=8, le=1024)]]


class Window(Section):
    """Map intensities between `low` and `high` to 0..1 and clip outside (CT: Hounsfield units)."""

    name: Literal["window"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Normalise(Section):
    """Bring each example to a range of its own.

    Images: map the `lower` and `upper` percentile to 0 and 1. Signals: subtract the median of each
    channel and divide by its standard deviation.
    """

    name: Literal["normalise"]
    lower: float = Field(default=1.0, ge=0.0, lt=50.0)
    upper: float = Field(default=99.0, gt=50.0, le=100.0)


class Histogram(Section):
    """Replace an image by the shares of its pixels in `bins` equal bins from `low` to `high`.

    The result is a table of `bins` numeric features.
    """

    name: Literal["histogram"]
    low: float
    high: float
    bins: int = Field(default=32, ge=2, le=1024)


class MatchHistogram(Section):
    """Map percentiles of each image onto their mean over all sites (Nyul & Udupa 1999), 0..1."""

    name: Literal["match-histogram"]


class Resample(Section):
    """Resample a signal to `rate` Hz with an anti-aliasing polyphase filter."""

    name: Literal["resample"]
    rate: float = Field(gt=0)


class BandPass(Section):
    """Zero-phase Butterworth band-pass between `low` and `high` Hz of the given order."""

    name: Literal["band-pass"]
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    order: int = Field(default=3, ge=1, le=10)

    @model_validator(mode="after")
    def _ordered(self) -> "BandPass":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Crop(Section):
    """Keep `length` samples of a signal from `start` on (in samples, after resampling)."""

    name: Literal["crop"]
    start: int = Field(default=0, ge=0)
    length: int = Field(ge=1)


class HashWords(Section):
    """Replace each word of a text by a number that every site finds for itself, a hash.

    Attributes:
        length: words that are kept; of a longer text its first and its last half of them.
        runs: 1 for words alone, 2 for pairs of neighbours as well, and so on.
    """

    name: Literal["hash-words"]
    length: int = Field(default=256, ge=2, le=65_536)
    runs: int = Field(default=1, ge=1, le=4)


class Augment(Section):
    """Random change of training examples only; validation never sees it.

    Attributes:
        flip: mirror images left to right with probability 1/2.
        shift: shift by up to this share of the size (images: both axes; signals: time).
        rotate: rotate images by up to this many degrees.
        scale: zoom images, or multiply signals, by a factor within 1 +- scale.
        noise: add Gaussian noise of this standard deviation.
    """

    name: Literal["augment"]
    flip: bool = False
    shift: float = Field(default=0.0, ge=0.0, le=0.5)
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    noise: float = Field(default=0.0, ge=0.0)


Step = Annotated[
    Impute
    | Standardise
    | Fill
    | OneHot
    | Resize
    | Window
    | Normalise
    | Histogram
    | MatchHistogram
    | Resample
    | BandPass
    | Crop
    | HashWords
    | Augment,
    Field(discriminator="name"),
]


class Preprocessing(Section):
    """`[preprocessing]`: an ordered recipe, the same at every site."""

    steps: tuple[Step, ...] = ()
