"""`[model]`: the name of a model and its settings, one class a name or family.

What a name stands for is in `wardround_shared.models`, which needs torch; this page does not.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from wardround_shared.study.section import Section

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class Mlp(Section):
    """Fully connected layers of the given widths; no layer at all is logistic regression."""

    name: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (32,)
    dropout: Dropout = 0.0


class Cnn(Section):
    """Three convolutions, two poolings, a dense layer, group norm. `width`: first channels."""

    name: Literal["cnn"]
    width: int = Field(default=16, ge=4, multiple_of=4)
    dense: int = Field(default=64, ge=1)
    dropout: Dropout = 0.0


class Backbone(Section):
    """Deep convolutional networks for images, with group norm and one dense layer at the end."""

    name: Literal["resnet18", "resnet50", "densenet121"]
    dropout: Dropout = 0.0


class UNet(Section):
    """U-shaped network that answers for each pixel, with group norm. `width`: first channels."""

    name: Literal["unet"]
    width: int = Field(default=16, ge=4, multiple_of=4)
    dropout: Dropout = 0.0


class DcGan(Section):
    """Generator of images, and the discriminator that sites train it against.

    `width`, `generator_width`: fewest channels of each; `latent`: numbers an image is made from.
    """

    name: Literal["dcgan"]
    width: int = Field(default=16, ge=4, multiple_of=4)
    generator_width: int = Field(default=32, ge=4, multiple_of=4)
    latent: int = Field(default=64, ge=1, le=1024)


class Cnn1d(Section):
    """Strided convolutions over time, whose channels double, and a dense layer.

    `width`: channels of the first block; `kernel`: samples that each convolution sees.
    """

    name: Literal["cnn1d"]
    width: int = Field(default=16, ge=4, multiple_of=4)
    blocks: int = Field(default=4, ge=1, le=8)
    kernel: int = Field(default=7, ge=3, le=63)
    dense: int = Field(default=32, ge=1)
    dropout: Dropout = 0.0


class _Recurrent(Section):
    """`front` > 0 puts a strided convolution of so many channels before the recurrent layers."""

    hidden: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1, le=4)
    bidirectional: bool = False
    front: int = Field(default=0, ge=0)
    front_kernel: int = Field(default=7, ge=1)
    front_stride: int = Field(default=2, ge=1)
    dense: int = Field(default=32, ge=1)
    dropout: Dropout = 0.0


class Lstm(_Recurrent):
    """Long short-term memory over time."""

    name: Literal["lstm"]


class Gru(_Recurrent):
    """Gated recurrent units over time: three quarters of the parameters of an LSTM."""

    name: Literal["gru"]


class CnnLstm(Section):
    """The convolutions of `Cnn1d`, and an LSTM over what they make of a signal."""

    name: Literal["cnn-lstm"]
    width: int = Field(default=16, ge=4, multiple_of=4)
    blocks: int = Field(default=3, ge=1, le=8)
    kernel: int = Field(default=7, ge=3, le=63)
    hidden: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1, le=4)
    bidirectional: bool = False
    dense: int = Field(default=32, ge=1)
    dropout: Dropout = 0.0


class Bilstm(Section):
    """Vectors of hashed words, an LSTM over them in both directions, and their mean and maximum.

    `buckets`: of the hash, words that share one share a vector; `embedding`: numbers of a vector;
    `hidden`: of each direction; `word_dropout`: share of the words that a step leaves out.
    """

    name: Literal["bilstm"]
    buckets: int = Field(default=8192, ge=16, le=2**20)
    embedding: int = Field(default=32, ge=1)
    hidden: int = Field(default=32, ge=1)
    word_dropout: Dropout = 0.0
    dropout: Dropout = 0.0


Model = Annotated[
    Mlp | Cnn | Backbone | UNet | DcGan | Cnn1d | Lstm | Gru | CnnLstm | Bilstm,
    Field(discriminator="name"),
]

MODEL_NAMES: tuple[str, ...] = tuple(
    name
    for kind in get_args(get_args(Model)[0])
    for name in get_args(kind.model_fields["name"].annotation)
)
"""Every name that `model.name` may have."""
