"""Scanners: how one hospital turns a chest into stored pixel values.

Manufacturers and models are invented; what differs between them is what differs between real
ones: bit depth, sign, photometric interpretation, rescale, tone curve, blur, noise, collimation.

Shape letters: S = height and width in pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from wardround_simulations.phantom.anatomy import Map, between


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """One hospital's X-ray machine and how it writes pixels (DICOM PS3.3 C.7.6.3, C.11.1).

    Attributes:
        bits: bits stored; 8 are kept in a byte, more in two.
        signed: two's complement, so that stored values lie around zero.
        inverted: MONOCHROME1, the lowest value is shown white.
        slope, intercept: stored value -> output value.
        transfer_syntax: UID of the encoding of the file.
        gamma: 0 leaves the tone curve straight, more lifts the dark parts, less lowers them.
        contrast: share of the value range that the image fills.
        noise: standard deviation of the grain, as a share of the range that the image fills.
        blur: share of a pixel's signal that spills over to its four neighbours.
        collimation: share of the field covered by the shutters at each edge.
        serial: device serial number.
    """

    manufacturer: str
    model: str
    bits: int
    signed: bool
    inverted: bool
    slope: float
    intercept: float
    transfer_syntax: str
    gamma: float
    contrast: float
    noise: float
    blur: float
    collimation: float
    serial: str = ""

    @property
    def lowest(self) -> int:
        """The lowest value that a stored pixel may have."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    def expose(self, attenuation: Map, rng: np.random.Generator) -> NDArray[np.integer]:
        """Take the picture: [S, S] attenuation -> [S, S] stored values."""
        image = np.clip(attenuation / 1.1, 0.0, 1.0)
        image = self._tone(_blurred(image, self.blur))
        # Few photons pass through dense parts, so the grain grows with the attenuation.
        image = image + self.noise * (0.6 + 0.8 * image) * _grain(rng, len(image))
        image = _shuttered(np.clip(image, 0.0, 1.0), self.collimation)
        if self.inverted:
            image = 1.0 - image
        top = (1 << self.bits) - 1
        margin = 0.5 * (1.0 - self.contrast)
        stored = np.floor((margin + self.contrast * image) * top + 0.5).astype(np.int64)
        kind = np.dtype(f"{'i' if self.signed else 'u'}{1 if self.bits == 8 else 2}")
        return (stored + self.lowest).astype(kind)

    def _tone(self, image: Map) -> Map:
        """A curve through (0, 0) and (1, 1): a rational one, exact on every machine."""
        return image * (1.0 + self.gamma) / (1.0 + self.gamma * image)


_KINDS = (
    Scanner(
        manufacturer="Boreal Imaging",
        model="Clarion DR",
        bits=12,
        signed=False,
        inverted=False,
        slope=1.0,
        intercept=0.0,
        transfer_syntax=ExplicitVRLittleEndian,
        gamma=0.0,
        contrast=0.94,
        noise=0.020,
        blur=0.10,
        collimation=0.0,
    ),
    Scanner(
        manufacturer="Meridian Medical",
        model="FilmScan 8",
        bits=8,
        signed=False,
        inverted=True,
        slope=1.0,
        intercept=0.0,
        transfer_syntax=ImplicitVRLittleEndian,
        gamma=0.25,
        contrast=0.72,
        noise=0.045,
        blur=0.45,
        collimation=0.03,
    ),
    Scanner(
        manufacturer="Ostrava Radiologie",
        model="RX-16",
        bits=16,
        signed=True,
        inverted=False,
        slope=0.25,
        intercept=8192.0,
        transfer_syntax=ExplicitVRLittleEndian,
        gamma=-0.15,
        contrast=0.60,
        noise=0.030,
        blur=0.20,
        collimation=0.03,
    ),
    Scanner(
        manufacturer="Pelican Health",
        # Ten bits: run-length encoding shortens the upper byte, whatever the lower one holds.
        model="Portable CR 10",
        bits=10,
        signed=False,
        inverted=True,
        slope=2.0,
        intercept=-512.0,
        transfer_syntax=RLELossless,
        gamma=0.15,
        contrast=0.82,
        noise=0.060,
        blur=0.30,
        collimation=0.0,
    ),
    Scanner(
        manufacturer="Boreal Imaging",
        model="Clarion DR Signed",
        bits=12,
        signed=True,
        inverted=False,
        slope=1.0,
        intercept=2048.0,
        transfer_syntax=ImplicitVRLittleEndian,
        gamma=0.1,
        contrast=0.88,
        noise=0.025,
        blur=0.15,
        collimation=0.02,
    ),
    Scanner(
        manufacturer="Tamarind Systems",
        model="Panel 16",
        bits=16,
        signed=False,
        inverted=True,
        slope=0.0625,
        intercept=0.0,
        transfer_syntax=ExplicitVRLittleEndian,
        gamma=-0.1,
        contrast=0.50,
        noise=0.035,
        blur=0.25,
        collimation=0.02,
    ),
)


def scanner_of(site: int, rng: np.random.Generator) -> Scanner:
    """The scanner of the hospital with this number: a kind, set up a little differently."""
    kind = _KINDS[site % len(_KINDS)]
    return replace(
        kind,
        gamma=kind.gamma + between(rng, -0.05, 0.05),
        contrast=kind.contrast * between(rng, 0.95, 1.05),
        noise=kind.noise * between(rng, 0.9, 1.1),
        serial=f"{int(rng.random() * 1e8):08d}",
    )


def _blurred(image: Map, share: float) -> Map:
    """Spread `share` of each pixel over its four neighbours; the border repeats."""
    padded = np.pad(image, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (1.0 - share) * image + 0.25 * share * around


def _grain(rng: np.random.Generator, size: int) -> Map:
    """Near-normal numbers of variance 1, [S, S]: sums of four uniforms (exact, unlike a log)."""
    total = rng.random((size, size))
    for _ in range(3):
        total = total + rng.random((size, size))
    grain: Map = (total - 2.0) * np.sqrt(3.0)
    return grain


def _shuttered(image: Map, share: float) -> Map:
    """Cover the edges: nothing reached the detector there, so they are shown dark."""
    cover = int(share * len(image))
    shown = np.zeros_like(image)
    inner = slice(cover, len(image) - cover)
    shown[inner, inner] = image[inner, inner]
    return shown
