"""Super-resolution by sparse coding, the method that SRCNN generalises (paper §2.1, §3.2).

Coupled dictionaries after Yang et al. (2010) and Zeyde et al. (2010): features of the bicubic-upscaled
image are coded sparsely in an LR dictionary. The same codes and the HR dictionary yield the detail that
bicubic lost. Overlapping patches are averaged.

As the paper observes, feature extraction, mean subtraction and projection on the dictionary are one
convolution (`SparseCoder.projection`), the solver is a non-linear mapping of each position, and averaging
HR atoms is another convolution (`SparseCoder.synthesis`).
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import orthogonal_mp_gram

from .._system.safe_files import atomic_write
from ..errors import ArgumentError, ImageError, ModelError, SourceMissingError
from ..evaluation.protocol import Degradation, Image, imresize, modcrop, read_image

Array = NDArray[np.float64]

# Yang's features: first and second derivatives of the upscaled image, as (taps, whether along y).
_FIRST = (-1.0, 0.0, 1.0)
_SECOND = (0.5, 0.0, -1.0, 0.0, 0.5)
_DERIVATIVES = ((_FIRST, True), (_FIRST, False), (_SECOND, True), (_SECOND, False))
_FORMAT = "1"
_NUMBERS, _ARRAYS = ("scale", "patch", "atoms"), ("basis", "lr", "hr")
_BATCH = 8192  # patches coded at once
_PENALTY = 1.5  # L1 penalty of the codes during training, for features of unit variance
_MAX_COSINE = 0.999  # more similar atoms are duplicates
_MIN_ENERGY = 1e-8  # of the features of a patch that is coded


def feature_kernels(patch: int) -> Array:
    """Return the convolution kernels (K, n, n) of a patch's features, with n = patch + 4: impulse responses.

    Feature (d, i, j) is derivative d at pixel (i, j) of the patch, minus the mean of that derivative over
    the patch.
    """
    size = patch + 4
    impulses = np.eye(size * size).reshape(-1, size, size)
    responses = [patch_features(impulse, patch)[0, 0] for impulse in impulses]
    return np.stack(responses, axis=1).reshape(-1, size, size)


@dataclass(frozen=True, slots=True)
class SparseCoder:
    """Coupled dictionaries.

    Attributes
    ----------
    scale : int
        Scale factor.
    patch : int
        Side of a patch in HR pixels.
    atoms : int
        Maximum number of atoms per patch.
    basis : ndarray, shape (D, K)
        Projects features on their principal components.
    lr : ndarray, shape (A, D)
        Unit atoms of the projected features.
    hr : ndarray, shape (A, patch²)
        Atoms of the detail that bicubic lost.
    radius : int
        Pixels around a patch that its features depend on.
    """

    radius: ClassVar[int] = 2

    scale: int
    patch: int
    atoms: int
    basis: Array
    lr: Array
    hr: Array

    def analysis(self) -> Array:
        """Return the convolution (D, n, n) that computes the projected features of every patch."""
        return np.tensordot(self.basis, feature_kernels(self.patch), 1)

    def projection(self) -> Array:
        """Return the convolution (A, n, n) that projects every patch on the LR dictionary.

        In the paper's interpretation (§3.2) these are the filters of the first layer.
        """
        return np.tensordot(self.lr, self.analysis(), 1)

    def synthesis(self) -> Array:
        """Return the convolution (A, patch, patch) that averages overlapping HR atoms.

        Applied to maps of codes that are padded by patch - 1, it is the last layer in the paper's
        interpretation.
        """
        flipped = self.hr.reshape(-1, self.patch, self.patch)[:, ::-1, ::-1]
        return flipped / self.patch**2

    def encode(self, features: Array) -> Array:
        """Return the codes (N, A) of projected features (N, D), with at most `atoms` non-zeros per row."""
        codes = np.zeros((len(features), len(self.lr)))
        coded = np.flatnonzero((features**2).sum(axis=1) > _MIN_ENERGY)
        if len(coded):
            gram = self.lr @ self.lr.T
            with warnings.catch_warnings():
                # The pursuit rightly ends early if fewer atoms represent a patch exactly.
                warnings.filterwarnings("ignore", "Orthogonal matching pursuit ended", RuntimeWarning)
                out = orthogonal_mp_gram(gram, self.lr @ features[coded].T, n_nonzero_coefs=self.atoms)
            codes[coded] = np.asarray(out).reshape(len(self.lr), len(coded)).T
        return codes

    def upscale(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Upscale a luminance image.

        Parameters
        ----------
        lr : ndarray, shape (h, w)
            In [0, 1].

        Returns
        -------
        ndarray, shape (s·h, s·w), float32
            Not clipped.
        """
        if lr.ndim != 2:
            raise ArgumentError(f"a dictionary works on luminance of shape (h, w), got {lr.shape}")
        return self.restore(imresize(lr.astype(np.float64), self.scale, down=False)).astype(np.float32)

    def restore(self, upscaled: Image) -> Image:
        """Add the lost detail to a bicubic-upscaled image, whose edges are mirrored."""
        around = self.patch - 1
        padded = np.pad(upscaled, around + self.radius, mode="symmetric")
        features = patch_features(padded, self.patch)
        h, w = features.shape[:2]
        flat = features.reshape(h * w, -1)
        detail = np.empty((h * w, self.patch**2), np.float32)
        for k in range(0, h * w, _BATCH):
            codes = self.encode(flat[k : k + _BATCH] @ self.basis.T)
            detail[k : k + _BATCH] = codes @ self.hr
        summed = overlap_add(detail.reshape(h, w, self.patch, self.patch))
        height, width = upscaled.shape
        inner = summed[around : around + height, around : around + width]
        return upscaled + inner / self.patch**2

    def save(self, path: Path) -> None:
        """Write the dictionaries as ``.npz``, atomically."""
        with atomic_write(path) as file:
            arrays = {name: getattr(self, name).astype(np.float32) for name in _ARRAYS}
            numbers = {name: getattr(self, name) for name in _NUMBERS}
            np.savez_compressed(file, format=_FORMAT, **numbers, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read dictionaries that `save` wrote.

        Raises
        ------
        SourceMissingError, ModelError
            If the file does not exist or contains something else.
        """
        if not path.exists():
            raise SourceMissingError(f"{path}: no such file")
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {k: file[k] for k in ("format", *_NUMBERS, *_ARRAYS)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: not a dictionary of this package: {error}") from error
        scale, patch, atoms = (int(found[k]) for k in _NUMBERS)
        return cls(scale, patch, atoms, *(found[k].astype(np.float64) for k in _ARRAYS))


def patch_features(image: Image, patch: int) -> Array:
    """Return the features of every patch: derivatives, minus their mean over the patch.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        With 2 pixels around the patches.
    patch : int
        Side of a patch.

    Returns
    -------
    ndarray, shape (H - patch - 3, W - patch - 3, 4·patch²)
    """
    parts = []
    for taps, vertical in _DERIVATIVES:
        lines = image if vertical else image.T
        half = len(taps) // 2
        inner = sum(tap * lines[2 + k - half : lines.shape[0] - 2 + k - half] for k, tap in enumerate(taps))
        assert not isinstance(inner, int)
        derivative = inner[:, 2:-2] if vertical else inner[:, 2:-2].T
        windows = sliding_window_view(derivative, (patch, patch))
        windows = windows.reshape(*windows.shape[:2], patch * patch)
        parts.append(windows - windows.mean(axis=2, keepdims=True))
    return np.concatenate(parts, axis=2)


def overlap_add(patches: NDArray[np.floating]) -> Array:
    """Return the sum (h + p - 1, w + p - 1) of overlapping patches (h, w, p, p), one at every pixel."""
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

    The LR dictionary is found by scikit-learn's online dictionary learning (Mairal et al., 2009) on the
    patches with the most detail, and the HR dictionary by least squares with the same codes (Zeyde et al.).

    Parameters
    ----------
    paths : sequence of Path
        Training images. Damaged and too small ones are skipped.
    scale : int
        Scale factor.
    patch : int
        Side of a patch in HR pixels.
    dictionary : int
        Number of atoms.
    atoms : int
        Maximum number of atoms per patch.
    components : int
        Principal components of the features that are kept.
    samples : int
        Number of training patches.
    seed : int
        Seed of the samples and the solver.
    log : callable, optional
        Called with lines about skipped files and progress.

    Raises
    ------
    ArgumentError
        If a number is out of range, or there are fewer patches than atoms.
    ImageError
        If no image can be used.
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
    # Principal components reduce noise and make coding many times faster.
    values, vectors = np.linalg.eigh(features.T @ features / count)
    basis = vectors[:, ::-1][:, : min(components, size)].T
    kept = values[::-1][: len(basis)].sum() / values.sum()
    projected = features @ basis.T
    log(f"{count} patches, {len(basis)} components with {kept:.1%} of the energy")
    # Unit variance makes the penalty independent of the scale factor and the images.
    deviation = projected.std() or 1.0
    learner = MiniBatchDictionaryLearning(
        n_components=dictionary,
        alpha=_PENALTY,
        fit_algorithm="cd",
        batch_size=512,
        max_iter=2,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Nearly converged codes suffice for a step of the dictionary.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = learner.fit(projected / deviation).components_
    lr = _distinct(found)
    log(f"{len(lr)} distinct atoms")
    gram, cross = np.zeros((len(lr), len(lr))), np.zeros((len(lr), patch * patch))
    coder = SparseCoder(scale, patch, atoms, basis, lr, cross)
    for k in range(0, count, _BATCH):
        codes = coder.encode(projected[k : k + _BATCH])
        gram += codes.T @ codes
        cross += codes.T @ details[k : k + _BATCH]
    # Keeps the system regular if an atom is never used.
    ridge = 1e-6 * np.trace(gram) / len(gram)
    hr = np.linalg.solve(gram + ridge * np.eye(len(gram)), cross)
    return replace(coder, hr=hr)


def _distinct(atoms: Array) -> Array:
    """Return unit atoms without zeros and near duplicates."""
    norms = np.linalg.norm(atoms, axis=1)
    atoms = atoms[norms > 0] / norms[norms > 0, None]
    duplicate = np.abs(np.triu(atoms @ atoms.T, 1)) > _MAX_COSINE
    return np.asarray(atoms[~duplicate.any(axis=0)])


def _samples(
    paths: Sequence[Path],
    scale: int,
    patch: int,
    samples: int,
    rng: np.random.Generator,
    log: Callable[[str], None],
) -> tuple[Array, Array]:
    """Return features and lost detail of random patches from all images, those with the most detail."""
    features, details = [], []
    each = -(-2 * samples // len(paths))
    for path in paths:
        try:
            truth = modcrop(read_image(path, "y"), scale)
        except ImageError as error:
            log(f"skipped: {error}")
            continue
        if min(truth.shape) < patch + 4:
            log(f"skipped: {path}: smaller than a patch of {patch + 4} pixels")
            continue
        upscaled = imresize(Degradation().apply(truth, scale, rng), scale, down=False)
        found = patch_features(upscaled, patch)
        lost = sliding_window_view((truth - upscaled)[2:-2, 2:-2], (patch, patch))
        h, w = found.shape[:2]
        at = rng.choice(h * w, min(each, h * w), replace=False)
        features.append(found.reshape(h * w, -1)[at])
        details.append(lost.reshape(h * w, -1)[at])
    if not features:
        raise ImageError(f"none of {len(paths)} images can be used")
    x, y = np.concatenate(features), np.concatenate(details)
    # Flat patches teach nothing; twice as many were drawn as are used.
    strong = np.argsort(-(x**2).sum(axis=1), kind="stable")[:samples]
    return x[strong], y[strong]
