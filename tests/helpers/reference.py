"""Reference implementation in float64: direct bicubic and direct convolution.

It shares no code with the package. Positions and weights come from the definitions, and it has no tiles,
windows or shuffles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def keys_cubic(x: float) -> float:
    """Keys' kernel with a = -0.5 (MATLAB's 'cubic')."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x < 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def mirrored(i: int, n: int) -> int:
    """Return an index in [0, n) by reflection at the edges, repeating the edge sample."""
    while not 0 <= i < n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


def bicubic_axis(a: np.ndarray, scale: int, border: int) -> np.ndarray:
    """Enlarge axis 0 by `scale`, with `border` more HR samples beyond both edges."""
    n = a.shape[0]
    out = np.zeros((n * scale + 2 * border, *a.shape[1:]))
    for row, hr in enumerate(range(-border, n * scale + border)):
        x = (hr + 0.5) / scale - 0.5
        for k in range(math.floor(x) - 1, math.floor(x) + 3):
            out[row] += keys_cubic(x - k) * a[mirrored(k, n)]
    return out


def bicubic(a: np.ndarray, scale: int, border: int = 0) -> np.ndarray:
    """Enlarge an (H, W) image, mirrored at its edges, with `border` HR samples around."""
    return bicubic_axis(bicubic_axis(a.astype(np.float64), scale, border).T, scale, border).T


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Unpadded correlation: x (C, H, W), weight (O, C, k, k) -> (O, H-k+1, W-k+1)."""
    out_channels, _, kh, kw = weight.shape
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    out = np.zeros((out_channels, h, w))
    for i in range(kh):
        for j in range(kw):
            out += np.tensordot(weight[:, :, i, j].astype(np.float64), x[:, i : i + h, j : j + w], 1)
    return out if bias is None else out + bias.astype(np.float64)[:, None, None]


def network(x: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Apply convolutions with ReLU between them."""
    for k, (weight, bias) in enumerate(layers):
        x = convolve(x, weight, bias)
        if k + 1 < len(layers):
            x = np.maximum(x, 0)
    return x


def shrink(layers: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """Return the HR samples that unpadded layers remove from each side."""
    return sum(weight.shape[2] // 2 for weight, _ in layers)


def srcnn(planes: np.ndarray, scale: int, layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Apply SRCNN to whole (C, H, W) planes: bicubic with a mirrored border, then the layers."""
    border = shrink(layers)
    return network(np.stack([bicubic(p, scale, border) for p in planes]), layers)


@dataclass(frozen=True)
class Network:
    """An SRCNN: its layers, whether bicubic is added to their result, and its range of values.

    With `slopes`, one array per activation, it is a compact network on LR pixels instead.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    scale: int
    added: bool
    black: float = 0.0
    white: float = 1.0
    slopes: list[np.ndarray] | None = None

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """Upscale (C, H, W) planes in the network's own range of values."""
        if self.added:
            assert not any(bias.any() for _, bias in self.layers)
            if self.slopes is not None:
                return compact(planes, self.scale, [weight for weight, _ in self.layers], self.slopes)
            return added_to_bicubic(planes, self.scale, [weight for weight, _ in self.layers])
        return srcnn(planes, self.scale, self.layers)

    def image(self, image: np.ndarray) -> np.ndarray:
        """Upscale an (H, W, C) image in [0, 1]."""
        span = self.white - self.black
        planes = image.transpose(2, 0, 1) * span + self.black
        return (self(planes).transpose(1, 2, 0) - self.black) / span


def to_ycbcr(rgb: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) in [0, 1] to BT.601 studio swing in [0, 1], like MATLAB's rgb2ycbcr."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    return (rgb @ matrix.T + [16, 128, 128]) / 255


def from_ycbcr(ycc: np.ndarray) -> np.ndarray:
    """Invert `to_ycbcr` by the inverse of its matrix."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    return (ycc * 255 - [16, 128, 128]) @ np.linalg.inv(matrix).T


def upscale_rgb(rgb: np.ndarray, network: Network) -> np.ndarray:
    """Apply a luminance model to colour through YCbCr, with bicubic chroma."""
    ycc = to_ycbcr(rgb)
    y = network(ycc[..., 0][None])[0]
    cb, cr = (bicubic(ycc[..., k], network.scale) for k in (1, 2))
    return from_ycbcr(np.stack([y, cb, cr], axis=-1))


def filled_under(image: np.ndarray, radius: int) -> np.ndarray:
    """Return the colour of an (H, W, C + 1) image, filled under its transparent pixels by weighted means.

    The result has `radius` more pixels on every side.
    """
    h, w, c = image.shape[0], image.shape[1], image.shape[2] - 1
    out = np.zeros((h + 2 * radius, w + 2 * radius, c))
    for i in range(-radius, h + radius):
        for j in range(-radius, w + radius):
            top, bottom = np.zeros(c), 0.0
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    pixel = image[mirrored(i + dy, h), mirrored(j + dx, w)]
                    weight = (1 - abs(dy) / (radius + 1)) * (1 - abs(dx) / (radius + 1)) * pixel[-1]
                    top += weight * pixel[:-1]
                    bottom += weight
            own = image[mirrored(i, h), mirrored(j, w)]
            mean = top / bottom if bottom > 0 else np.zeros(c)
            out[i + radius, j + radius] = own[-1] * own[:-1] + (1 - own[-1]) * mean
    return out


def upscale_with_alpha(image: np.ndarray, network: Network, radius: int) -> np.ndarray:
    """Return premultiplied bicubic, divided by bicubic alpha, plus the network's detail of `filled_under`."""
    color, alpha, scale = image[..., :-1], image[..., -1], network.scale
    a = bicubic(alpha, scale)
    # Mirroring and filling commute, so the border of the filled image can be dropped.
    filled = filled_under(image, radius)[radius:-radius, radius:-radius]
    plain = np.stack([bicubic(filled[..., k], scale) for k in range(filled.shape[2])], axis=-1)
    sharp = upscale_rgb(filled, network) if filled.shape[2] == 3 else network.image(filled)
    premultiplied = color * alpha[..., None]
    c = np.stack([bicubic(premultiplied[..., k], scale) for k in range(filled.shape[2])], axis=-1)
    seen = (a >= 1e-6)[..., None]
    divided = c / np.where(seen, a[..., None], 1)
    return np.concatenate([np.where(seen, divided + sharp - plain, 0), a[..., None]], axis=-1)


def quantise(x: np.ndarray, dtype: type) -> np.ndarray:
    """Convert [0, 1] to an integer type: clip, round half to even."""
    top = np.iinfo(dtype).max
    return np.rint(np.clip(x, 0, 1) * top).astype(dtype)


def added_to_bicubic(planes: np.ndarray, scale: int, kernels: list[np.ndarray]) -> np.ndarray:
    """Apply layers without biases to bicubic (C, H, W) planes, and add bicubic to the result."""
    layers = [(k, np.zeros(len(k))) for k in kernels]
    plain = np.stack([bicubic(p, scale) for p in planes])
    return srcnn(planes, scale, layers) + plain


def compact(
    planes: np.ndarray, scale: int, kernels: list[np.ndarray], slopes: list[np.ndarray]
) -> np.ndarray:
    """Apply layers with PReLU between them to mirrored LR planes, and add the result to bicubic.

    Channel c·s² + p·s + q of the last layer is row phase p and column phase q of plane c.
    """
    margin = len(kernels)
    x = np.pad(planes.astype(np.float64), ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    for k, kernel in enumerate(kernels):
        x = convolve(x, kernel, None)
        if k < len(slopes):
            x = np.where(x < 0, slopes[k].astype(np.float64)[:, None, None] * x, x)
    out = np.stack([bicubic(plane, scale) for plane in planes]) if scale > 1 else planes.astype(np.float64)
    for channel, plane in enumerate(x):
        c, phase = divmod(channel, scale**2)
        out[c, phase // scale :: scale, phase % scale :: scale] += plane
    return out
