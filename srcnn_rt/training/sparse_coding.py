"""Sparse coding, the method SRCNN reinterprets (paper §2.1, §3.2), and its linear parts as convolutions.

Coupled dictionaries in the manner of Yang et al. (2010) and Zeyde et al. (2010): features of the
bicubic-enlarged image are coded sparsely in an LR dictionary, and the HR dictionary with the
same code gives what bicubic lost; overlapping patches are averaged.

The paper's reading of it: taking features of every patch, less its mean, and projecting them on the
dictionary is a convolution (`Analysis`); the solver is a non-linear mapping of each position on its
own; putting HR atoms back and averaging is another convolution (`Synthesis`).
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import orthogonal_mp_gram

from ..errors import ArgumentError, ImageError, ModelError, OutputError, SourceMissingError
from ..evaluation.protocol import Degradation, Image, imresize, modcrop, read_image

Array = NDArray[np.float64]

# Yang's features: first and second differences of the enlarged image, along y and along x.
_FIRST = (-1.0, 0.0, 1.0)
_SECOND = (0.5, 0.0, -1.0, 0.0, 0.5)
_FORMAT = "1"
_KEYS = ("format", "scale", "patch", "atoms", "basis", "lr", "hr")
_BATCH = 8192  # patches coded at once
_PENALTY = 1.5  # of the codes' absolute sum while learning, for features of unit variance
_ALIKE = 0.999  # cosine from which two atoms are one
_FLAT = 1e-8  # energy under which a patch has no features


def feature_kernels(patch: int) -> Array:
    """Return (K, n, n) kernels: what a patch's features are of the pixels around it.

    Feature (d, i, j) is difference filter d at pixel (i, j) of the patch, less the mean of that filter
    over the patch: mean subtraction is linear, so it is part of the kernel. n = patch + 4.
    """
    size = patch + 4
    kernels = []
    for taps, vertical in ((_FIRST, True), (_FIRST, False), (_SECOND, True), (_SECOND, False)):
        at = np.zeros((patch, patch, size, size))
        half = len(taps) // 2
        for i in range(patch):
            for j in range(patch):
                for k, tap in enumerate(taps):
                    y, x = (i + 2 + k - half, j + 2) if vertical else (i + 2, j + 2 + k - half)
                    at[i, j, y, x] += tap
        kernels.append((at - at.mean(axis=(0, 1))).reshape(patch * patch, size, size))
    return np.concatenate(kernels)


@dataclass(frozen=True, slots=True)
class SparseCoder:
    """Coupled dictionaries, learned on images.

    Attributes
    ----------
    scale : HR pixels an LR pixel
    patch : side of a patch, HR pixels
    atoms : how many atoms code one patch
    basis : (D, K) projects features on their principal components
    lr : (A, D) unit atoms of the projected features
    hr : (A, patch²) atoms of what bicubic lost
    """

    scale: int
    patch: int
    atoms: int
    basis: Array
    lr: Array
    hr: Array

    @property
    def radius(self) -> int:
        """Pixels around a patch that its features read."""
        return 2

    def analysis(self) -> Array:
        """Return the (D, n, n) convolution that gives the projected features of every patch."""
        return np.tensordot(self.basis, feature_kernels(self.patch), 1)

    def projection(self) -> Array:
        """Return the (A, n, n) convolution that projects every patch on the LR dictionary.

        These are the first-layer filters of the paper's reading (§3.2): feature extraction, mean
        subtraction, whitening and projection in one.
        """
        return np.tensordot(self.lr, self.analysis(), 1)

    def synthesis(self) -> Array:
        """Return the (A, patch, patch) convolution that aggregates: HR atoms, averaged.

        Correlating the maps of codes with it, padded by patch - 1, sums all atoms over a pixel and
        divides by how many patches cover it: the last layer of the paper's reading.
        """
        flipped = self.hr.reshape(-1, self.patch, self.patch)[:, ::-1, ::-1]
        return flipped / self.patch**2

    def encode(self, features: Array) -> Array:
        """Code (N, D) projected features: (N, A), at most `atoms` of each row not zero."""
        codes = np.zeros((len(features), len(self.lr)))
        busy = np.flatnonzero((features**2).sum(axis=1) > _FLAT)
        if len(busy):
            gram = self.lr @ self.lr.T
            with warnings.catch_warnings():
                # A patch that fewer atoms explain exactly ends early, as it should.
                warnings.filterwarnings("ignore", "Orthogonal matching pursuit ended", RuntimeWarning)
                out = orthogonal_mp_gram(gram, self.lr @ features[busy].T, n_nonzero_coefs=self.atoms)
            codes[busy] = np.asarray(out).reshape(len(self.lr), len(busy)).T
        return codes

    def upscale(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Upscale a luminance image.

        Parameters
        ----------
        lr : (h, w) in [0, 1]

        Returns
        -------
        (s·h, s·w) float32, not clipped
        """
        if lr.ndim != 2:
            raise ArgumentError(f"a dictionary takes luminance, (h, w), got {lr.shape}")
        return self.restore(imresize(lr.astype(np.float64), self.scale, down=False)).astype(np.float32)

    def restore(self, enlarged: Image) -> Image:
        """Add what bicubic lost to an enlarged image; patches hang over its mirrored edges."""
        around = self.patch - 1
        padded = np.pad(enlarged, around + self.radius, mode="symmetric")
        features = patch_features(padded, self.patch)
        h, w = features.shape[:2]
        flat = features.reshape(h * w, -1)
        detail = np.empty((h * w, self.patch**2), np.float32)
        for k in range(0, h * w, _BATCH):
            codes = self.encode(flat[k : k + _BATCH] @ self.basis.T)
            detail[k : k + _BATCH] = codes @ self.hr
        summed = overlap_add(detail.reshape(h, w, self.patch, self.patch))
        height, width = enlarged.shape
        inner = summed[around : around + height, around : around + width]
        return enlarged + inner / self.patch**2

    def save(self, path: Path) -> None:
        """Write the dictionaries as ``.npz``, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(
                    file,
                    format=_FORMAT,
                    scale=self.scale,
                    patch=self.patch,
                    atoms=self.atoms,
                    basis=self.basis.astype(np.float32),
                    lr=self.lr.astype(np.float32),
                    hr=self.hr.astype(np.float32),
                )
            partial.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        SourceMissingError, ModelError
        """
        if not path.exists():
            raise SourceMissingError(f"{path}: no such file")
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {k: file[k] for k in _KEYS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: not a dictionary of this package: {error}") from error
        scale, patch, atoms = (int(found[k]) for k in ("scale", "patch", "atoms"))
        basis, lr, hr = (found[k].astype(np.float64) for k in ("basis", "lr", "hr"))
        return cls(scale, patch, atoms, basis, lr, hr)


def patch_features(image: Image, patch: int) -> Array:
    """Features of every patch, directly: difference images, cut into patches, each less its mean.

    Parameters
    ----------
    image : (H, W), with 2 pixels around the patches
    patch : side

    Returns
    -------
    (H - patch - 3, W - patch - 3, 4·patch²)
    """
    maps = []
    for taps, vertical in ((_FIRST, True), (_FIRST, False), (_SECOND, True), (_SECOND, False)):
        lines = image if vertical else image.T
        half = len(taps) // 2
        inner = sum(tap * lines[2 + k - half : lines.shape[0] - 2 + k - half] for k, tap in enumerate(taps))
        assert not isinstance(inner, int)
        whole = inner[:, 2:-2]
        maps.append(whole if vertical else whole.T)
    parts = []
    for m in maps:
        windows = sliding_window_view(m, (patch, patch)).reshape(
            m.shape[0] - patch + 1, m.shape[1] - patch + 1, patch * patch
        )
        parts.append(windows - windows.mean(axis=2, keepdims=True))
    return np.concatenate(parts, axis=2)


def overlap_add(patches: NDArray[np.floating]) -> Array:
    """Sum (h, w, p, p) patches, one at every pixel: (h + p - 1, w + p - 1)."""
    h, w, p, _ = patches.shape
    out = np.zeros((h + p - 1, w + p - 1))
    for i in range(p):
        for j in range(p):
            out[i : i + h, j : j + w] += patches[:, :, i, j]
    return out


def learn(
    paths: Sequence[Path],
    scale: int,
    *,
    patch: int = 9,
    dictionary: int = 512,
    atoms: int = 3,
    components: int = 30,
    samples: int = 60_000,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> SparseCoder:
    """Learn coupled dictionaries from images.

    The LR dictionary is scikit-learn's online dictionary learning (Mairal et al., 2009) on patches
    where something is; the HR one is then the least-squares answer to the same codes (Zeyde et al.).

    Parameters
    ----------
    paths : images; damaged ones and those without a patch are skipped
    scale : HR pixels an LR pixel
    patch : side of a patch, HR pixels
    dictionary : atoms in each dictionary
    atoms : how many code one patch
    components : principal components of the features that are kept
    samples : patches to learn from
    seed : of the sample and the solver

    Raises
    ------
    ArgumentError, ImageError
    """
    if min(patch, dictionary, atoms, components, samples) < 1 or atoms > dictionary:
        raise ArgumentError(
            f"patch, dictionary, atoms, components and samples must be positive and atoms at most the "
            f"dictionary, got {patch}, {dictionary}, {atoms}, {components}, {samples}"
        )
    rng = np.random.default_rng(seed)
    features, details = _samples(paths, scale, patch, samples, rng, log)
    count, size = features.shape
    if count < dictionary:
        raise ArgumentError(f"{count} patches are too few for {dictionary} atoms")
    # Principal components: less noise, and coding is many times faster.
    values, vectors = np.linalg.eigh(features.T @ features / count)
    basis = vectors[:, ::-1][:, : min(components, size)].T
    kept = values[::-1][: len(basis)].sum() / values.sum()
    projected = features @ basis.T
    log(f"{count} patches, {len(basis)} components with {kept:.1%} of the energy")
    # Features of unit variance: the penalty then means the same for every scale and set of images.
    unit = projected.std() or 1.0
    learner = MiniBatchDictionaryLearning(
        n_components=dictionary,
        alpha=_PENALTY,
        fit_algorithm="cd",
        batch_size=512,
        max_iter=2,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Codes that are nearly converged are good enough for a step of the dictionary.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = learner.fit(projected / unit).components_
    lr = _distinct(found)
    log(f"{len(lr)} distinct atoms")
    coder = SparseCoder(scale, patch, atoms, basis, lr, np.zeros((len(lr), patch * patch)))
    gram = np.zeros((len(lr), len(lr)))
    cross = np.zeros((len(lr), patch * patch))
    for k in range(0, count, _BATCH):
        codes = coder.encode(projected[k : k + _BATCH])
        gram += codes.T @ codes
        cross += codes.T @ details[k : k + _BATCH]
    # Atoms that nothing uses stay 0 rather than make the system singular.
    ridge = 1e-6 * np.trace(gram) / len(gram)
    hr = np.linalg.solve(gram + ridge * np.eye(len(gram)), cross)
    return SparseCoder(scale, patch, atoms, basis, lr, hr)


def _distinct(atoms: Array) -> Array:
    """Return unit atoms, without empty ones and without all but one of those that are nearly equal."""
    norms = np.linalg.norm(atoms, axis=1)
    atoms = atoms[norms > 0] / norms[norms > 0, None]
    alike = np.abs(np.triu(atoms @ atoms.T, 1)) > _ALIKE
    return np.asarray(atoms[~alike.any(axis=0)])


def _samples(
    paths: Sequence[Path],
    scale: int,
    patch: int,
    samples: int,
    rng: np.random.Generator,
    log: Callable[[str], None],
) -> tuple[Array, Array]:
    """Features and lost detail of patches drawn from all images, flat ones left out."""
    features, details = [], []
    each = -(-2 * samples // len(paths))
    for path in paths:
        try:
            truth = modcrop(read_image(path, "y"), scale)
        except ImageError as error:
            log(f"skipped: {error}")
            continue
        if min(truth.shape) < patch + 4:
            log(f"skipped: {path}: smaller than a patch of {patch + 4}")
            continue
        lr = Degradation().apply(truth, scale, rng)
        enlarged = imresize(lr, scale, down=False)
        found = patch_features(enlarged, patch)
        lost = sliding_window_view((truth - enlarged)[2:-2, 2:-2], (patch, patch))
        h, w = found.shape[:2]
        at = rng.choice(h * w, min(each, h * w), replace=False)
        features.append(found.reshape(h * w, -1)[at])
        details.append(lost.reshape(h * w, -1)[at])
    if not features:
        raise ImageError(f"none of {len(paths)} images can be used")
    x, y = np.concatenate(features), np.concatenate(details)
    # The half with more in it: flat patches teach nothing.
    strong = np.argsort(-(x**2).sum(axis=1), kind="stable")[:samples]
    return x[strong], y[strong]
