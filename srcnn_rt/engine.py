"""`Engine`: upscale arrays and files with one model."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._version import __version__
from .backends import loader, tuning_cache
from .backends.loader import Loader, Setup
from .backends.onnxruntime import PRECISIONS, PROVIDERS, available_threads
from .backends.untiled import load_whole
from .errors import ArgumentError, ModelError
from .execution import autotune, executor, streaming
from .execution.autotune import Trial
from .execution.executor import Progress
from .execution.normalization import DataRange
from .image.info import ImageInfo, Nodata, Reading
from .io import ArraySink, Output, Record, Sink, Source, array_source, open_source
from .io.array_like import SlicedSink, SlicedSource
from .io.protocols import Closing
from .jobs.report import Report, peak_memory
from .models import spec
from .models.margins import check_layout
from .models.prepare import Program
from .models.spec import ModelSpec
from .tiling import geometry
from .tiling.geometry import Plan, Span

if TYPE_CHECKING:
    from .jobs.estimate_text import Estimate
    from .jobs.file_job import Job

# HR side of a tile for tile="auto" where nothing was measured: small enough for the activations
# to stay in the caches, large enough for the margins not to matter.
AUTO_TILE_HR = 256
# Models of so many multiply-accumulates a pixel are bound by arithmetic, not by memory: caches matter
# less to them than what windows compute twice.
HEAVY = 30_000
HEAVY_TILE_HR = 512
DEVICE_TILE_HR = 2048  # of images that lie on a GPU
GPU_TILE_HR = 1024  # of a GPU: fewer margins, larger kernels; no cache to stay in

# With tile="auto", an image of so many HR pixels is worth the measurement before it.
TUNE_FROM = 10**9
WHOLE = 2**40  # a tile no image fills

Range = str | tuple[float, float]


class Engine(Closing):
    """Upscales images of any size with one model; the result does not depend on `tile`.

    May be used from several threads at once, and as a context manager. Touches no global
    state: no environment, no logging, no threads of other libraries.

    Parameters
    ----------
    model : str, Path or bytes
        A bundled name (``srcnn-rt models`` lists them), ``"bicubic-x2"`` … ``"bicubic-x8"``,
        the path of an ONNX file, or such a file's bytes.
    provider : {"auto", "cpu", "cuda", "openvino"}
        ``"auto"`` takes CUDA where it works, else ONNX Runtime on the CPU, or OpenVINO where
        `precision` is ``"fast"``. A provider asked for by name is used or `ProviderError` is raised.
    tile : int, "auto" or None
        Side of a tile in LR pixels, margins not counted, at least 8. ``"auto"`` takes what `tune`
        measured. Without a measurement it takes 256 HR pixels (512 for heavy models), and measures
        before an image of over 1,000 Mpx. None runs the model once on the whole image, which must then
        fit into memory. Models whose receptive field is unbounded can only be run so.
    threads : int, optional
        Threads of the network; all available processors if None.
    model_range : str, optional
        What the model calls black and white where its file does not say: ``"0..255"``,
        ``"-1..1"``, or ``"mean=A,B,C std=D,E,F"``. By default luminance is 16/255 to 235/255 and colour 0 to
        1.
    data_range : str or (float, float)
        Which samples are black and white, for models that need to know (`ModelSpec.equivariant` ones do not):
        ``"LOW..HIGH"``; ``"dtype"``, the type's range for integers and [0, 1] for floats; ``"auto"``, what
        the file declares, else the same, but an image is refused that clearly does not live there.
    precision : {"exact", "fast"}
        ``"exact"`` computes in float32. ``"fast"`` computes in float16 on a GPU and in bfloat16 on the CPU
        (OpenVINO), and is refused where that is not at hand, or the model would lose more than 0.01 dB or
        0.02 dB.
    device : int, str or sequence of int, optional
        Number of the GPU, or of several that share the work: ``0``, ``"0,1"``, ``(0, 1)``. With it, provider
        ``"auto"`` means ``"cuda"``. 0 if None.
    gpu_memory : int or str, optional
        What each GPU's activations may take: bytes, or ``"8GB"``. All of it if None. Where it does not
        suffice, fewer and then smaller windows go together.
    trust : bool
        Do not try a model that did not come with the package on a drawn image, tiled and whole, the first
        time it is used on this machine.
    inputs : mapping of str to float, optional
        Fixed values of a model's inputs that are no images: a noise level, a scale.
    output : str, optional
        Which of several outputs is the image.
    channel_order : {"rgb", "bgr"}
        Of the channels that a model of three takes and gives. Whether they come last (N, H, W, C) is seen.

    Raises
    ------
    SourceMissingError, ModelError, ProviderError, RuntimeMissingError, ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> from srcnn_rt import Engine
    >>> with Engine("srcnn-915-x2", provider="cpu") as engine:
    ...     engine.upscale(np.zeros((30, 40, 3), np.uint8)).shape
    (60, 80, 3)
    """

    def __init__(
        self,
        model: str | Path | bytes = "srcnn-915-x2",
        provider: str = "auto",
        tile: int | Literal["auto"] | None = 512,
        threads: int | None = None,
        model_range: str | None = None,
        precision: str = "exact",
        device: int | str | Sequence[int] | None = None,
        gpu_memory: int | str | None = None,
        data_range: Range = "auto",
        trust: bool = False,
        inputs: Mapping[str, float] | None = None,
        output: str | None = None,
        channel_order: str = "rgb",
    ) -> None:
        for name, value, known in (("provider", provider, PROVIDERS), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        if tile not in ("auto", None) and (isinstance(tile, bool) or not isinstance(tile, int)):
            raise ArgumentError(f"tile must be an integer number of LR pixels, 'auto' or None, got {tile!r}")
        whole = tile is None
        devices: tuple[int, ...] = (0,)
        memory = None
        if (device, gpu_memory) != (None, None):
            # Imported with what only some need, as files and arrays on GPUs are below: start-up counts.
            from .backends.cuda import devices as cuda

            devices = devices if device is None else cuda.parse_devices(device)
            memory = None if gpu_memory is None else cuda.parse_memory(gpu_memory)
        if device is not None and provider not in ("auto", "cuda"):
            raise ArgumentError(f"device goes with provider cuda, got {provider}")
        provider = "cuda" if device is not None else provider
        shaping = None
        if (inputs, output, channel_order) != (None, None, "rgb"):
            from .models.analysis import Shaping  # where it is wanted: onnx is imported with it

            shaping = Shaping.of(inputs, output, channel_order)
        data, facts = load_whole(model, shaping) if whole else spec.load(model, shaping)
        if model_range is not None:
            facts = spec.with_range(facts, model_range)
        self._data_range = DataRange.of(data_range)
        if isinstance(tile, int) and tile < geometry.MIN_TILE:
            raise ArgumentError(f"tile must be at least {geometry.MIN_TILE} LR pixels, got {tile}")
        self._precision, self._whole, self._asked = precision, whole, tile
        self._threads = threads or available_threads()
        file = Program(data, facts, False)
        self._loader = Loader(file, provider, precision, self._threads, whole, devices, memory)
        setup = self._loader.open()
        self._hash = hashlib.sha256(data).hexdigest()[:16]
        self._key = tuning_cache.key_for(data, setup.provider, precision, self._threads, self._gpus(setup))
        choice = tuning_cache.recall(self._key) if tile == "auto" else None
        self._untuned = choice is None and tile == "auto"
        if choice is not None:
            setup = self._loader.chosen(choice, setup)
            tile = _lr(choice.tile, setup.model)
        elif tile == "auto":
            tile = _auto(setup)
        side = WHOLE if tile is None else geometry.ceil_to(tile, setup.model.period)
        self._setup = replace(setup, tile=side)
        self._spec, self._provider = setup.model, setup.provider
        self._pool = ThreadPoolExecutor(max(self._threads, setup.workers), "srcnn-work")
        self._tuning = threading.Lock()
        self._rates: dict[Any, float] = {}
        self._closed = False
        if not (trust or whole or spec.is_own(model)):
            self._try_out(file)

    def _try_out(self, file: Program) -> None:
        """Compare tiles of a drawn image with the whole of it, if that was not done before.

        Raises
        ------
        ModelError
        """
        if tuning_cache.is_checked(self._key):
            return
        from .execution import self_check  # what most never need

        try:
            fast = self._precision == "fast"
            done = self_check.check(file.data, file.spec, self._setup, self._pool, fast=fast)
        except ModelError as error:
            self.close()
            raise ModelError(f"{file.spec.name}: {error}") from error
        if done:
            tuning_cache.note_checked(self._key)

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def scale(self) -> int:
        """HR pixels an LR pixel."""
        return self._spec.scale

    @property
    def margin(self) -> int:
        """LR pixels a core needs around it, derived from the model's graph."""
        return self._spec.margin

    @property
    def tile(self) -> int:
        """Side of a tile in LR pixels, as used: a multiple of the model's period."""
        return self._setup.tile

    @property
    def provider(self) -> str:
        """The provider really active: ``"cpu"``, ``"cuda"`` or ``"openvino"``."""
        return self._provider

    @property
    def precision(self) -> str:
        """``"exact"`` or ``"fast"``."""
        return self._precision

    def close(self) -> None:
        """Let go of the model. Later calls of `upscale` raise `ArgumentError`."""
        if self._closed:
            return
        self._closed = True
        self._pool.shutdown()
        loader.close(self._setup)
        del self._setup

    def upscale(
        self,
        image: Any,
        *,
        bands: bool = False,
        alpha: bool | None = None,
        nodata: float | None = None,
        classes: bool = False,
        data_range: Range | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Upscale an array.

        An array of another library that speaks DLPack (torch, CuPy, JAX) gives one of the same library on the
        same device. One on a GPU never leaves it, and its library puts it in order first; `nodata` is not
        taken there, and NaN not looked for.

        Parameters
        ----------
        image : (H, W) or (H, W, C) of a type of `SAMPLE_TYPES`; in host memory with any strides
            C = 1 gray, 2 gray + alpha, 3 R, G, B, 4 R, G, B, A (not premultiplied), other
            counts are bands. Values are in any unit; integers are clipped to their type and rounded half to
            even, floats are neither clipped nor rounded. Alpha is 0 to the type's largest value, or 1.0.
        bands : bool
            Upscale each channel on its own whatever C is.
        alpha : bool, optional
            Whether the last channel is alpha, beside bands too; if None, what C says, and with `bands`
            that it is not. Alpha is bicubic and goes through no network.
        nodata : float, optional
            Samples of this value are no data (of RGB, pixels whose three samples are): they do not
            enter the network, and each becomes s x s of the same. NaN, infinity and floats from 2^120 on
            are treated so in any case.
        classes : bool
            Samples are numbers of classes, of any type of whole numbers: each becomes s x s of the same,
            and no network runs.
        data_range : see `Engine`, whose it is if None
        progress : callable, optional
            Called with (HR pixels done, HR pixels in all).

        Returns
        -------
        (s·H, s·W) or (s·H, s·W, C) of the same dtype

        Raises
        ------
        ArgumentError
            If the shape or dtype is another one, or the array lies on a GPU that is not this engine's.
        """
        if not isinstance(image, np.ndarray) and hasattr(image, "__dlpack__"):
            return self._upscale_foreign(image, bands, alpha, nodata, classes, data_range, progress)
        source = array_source(image, bands=bands, alpha=alpha, classes=classes, nodata=nodata)
        sink = ArraySink(source.info.scaled(self.scale))
        self._process(source, sink, progress, data_range)
        return sink.array if np.ndim(image) == 3 else sink.array[:, :, 0]

    def _upscale_foreign(
        self,
        image: Any,
        bands: bool,
        alpha: bool | None,
        nodata: float | None,
        classes: bool,
        data_range: Range | None,
        progress: Progress | None,
    ) -> Any:
        """Upscale an array of another library, where it lies."""
        from .backends.cuda import arrays

        self._check_open()
        give = arrays.like(image)
        gpu = next((c for c in self._setup.gpus if c.holds(image.__dlpack_device__())), None)
        if gpu is None:
            made = self.upscale(
                arrays.on_host(image, self._provider),
                bands=bands, alpha=alpha, nodata=nodata, classes=classes,
                data_range=data_range, progress=progress,
            )  # fmt: skip
            return give(made)
        if nodata is not None or classes:
            raise ArgumentError(f"{'classes' if classes else 'nodata'} is not taken for arrays on a GPU")
        source = arrays.take(image, gpu, self._setup.arrival(gpu), bands=bands, alpha=alpha)
        sink = arrays.DeviceSink(gpu, source.info.scaled(self.scale))
        setup = self._setup
        if self._asked == "auto":  # one window at a time, so a larger one
            setup = replace(setup, tile=max(setup.tile, _lr(DEVICE_TILE_HR, setup.model)))
        executor.process(source, sink, setup, self._pool, progress, data_range=self._range(data_range))
        return arrays.give(sink.array, image, gpu)

    def upscale_into(
        self,
        source: Any,
        target: Any,
        *,
        axes: str | None = None,
        bands: bool = False,
        alpha: bool | None = None,
        nodata: float | None = None,
        classes: bool = False,
        data_range: Range | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Upscale anything that can be sliced into anything that slices can be assigned to.

        Zarr and HDF5 arrays, memory maps, dask arrays: read window by window, written in whole chunks of
        the target, each once, in bounded memory.

        Parameters
        ----------
        source : has ``shape``, ``dtype`` (one of `SAMPLE_TYPES`) and slices that NumPy can take
        target : has ``shape``, s times the source's, the same ``dtype``, and slice assignment
        axes : the letters y, x and c in the order of the axes of both; None for ``"yx"`` or ``"yxc"``
        bands, alpha, nodata, classes, data_range, progress : as in `upscale`

        Raises
        ------
        ArgumentError
            If a shape or dtype is another one.
        """
        opened = SlicedSource(source, axes, bands=bands, alpha=alpha, classes=classes, nodata=nodata)
        sink = SlicedSink(target, opened.info.scaled(self.scale), self.scale, axes)
        self._process(opened, sink, progress, data_range)

    def upscale_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        page: int | None = None,
        compress: str = "deflate",
        cog: bool = False,
        quality: int | None = None,
        max_pixels: int | None = None,
        bands: bool = False,
        nodata: Nodata = None,
        classes: bool = False,
        data_range: Range | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Upscale an image file. TIFF streams in bounded memory; other formats are held whole.

        The result grows as ``TARGET.partial`` with a journal beside it. A job that ends before it is
        complete, by Ctrl-C, a full disk or a killed process, can be gone on with.

        GDAL's block cache is this process's own affair: by default it takes up to 5% of the
        machine's memory; the command line sets GDAL_CACHEMAX to 32 MB.

        Parameters
        ----------
        source : a TIFF, PNG, JPEG, WebP, AVIF, JPEG XL or BMP
        target : its suffix decides the format
        overwrite : replace `target` if it exists, and what an interrupted run left
        resume : go on with what an interrupted run left, if there is any. Source, model and settings
            must be the same.
        page : the only one of a TIFF of several pages that is done, from 1; all if None
        compress : of a TIFF, without loss: ``"deflate"``, which every reader has, ``"zstd"``, twice as
            fast to write, ``"lzw"`` or ``"none"``
        cog : make a Cloud-Optimised GeoTIFF with overviews
        quality : 1 to 100 of a JPEG, WebP, AVIF or JPEG XL; None for 95 of a JPEG and no loss in others
        max_pixels : refuse larger images; 2³⁰ if None for formats that are not streamed
        bands : upscale each channel on its own, whatever the file calls it; palettes stay colours
        nodata : samples of this value are no data, in place of the file's own, and the result says so;
            ``"none"`` if all are data
        classes : samples are numbers of classes, as those of a georeferenced palette: each becomes s x s of
            the same, with its colour and name, and no network runs
        data_range : see `Engine`, whose it is if None
        progress : called with (HR pixels done, HR pixels in all)

        Raises
        ------
        SourceMissingError, ImageError, OutputError
            Naming the file and the rule; also if the result surely does not fit on the disk or into
            memory. Nothing is left under the name `target`.
        ArgumentError
            If the file's samples cannot be what `nodata` or `classes` says.
        """
        from .jobs import estimate as preflight
        from .jobs import file_job, sampling
        from .jobs.file_job import Pages

        start = time.perf_counter()
        todo = self.job(
            source, target, overwrite=overwrite, resume=resume, page=page, compress=compress, cog=cog,
            quality=quality, max_pixels=max_pixels, bands=bands, nodata=nodata, classes=classes,
            data_range=data_range,
        )  # fmt: skip
        preflight.check(todo, self._spec, self._setup)
        with Pages(todo, lambda info: check_layout(self._spec, info.layout)) as pages:
            preflight.check(todo, self._spec, self._setup, pages.infos)
            warnings = sampling.doubts(todo, pages.infos)
            self._ready_for(*pages.infos)
            run = partial(self._run, data_range=self._range(data_range))
            file_job.upscale(todo, pages, self._plan_for, run, progress)
        infos = pages.infos
        seconds = time.perf_counter() - start
        (h, w), s = infos[0].shape, self.scale
        pixels = sum(info.shape[0] * info.shape[1] for info in infos) * s * s
        return Report(
            source=str(source),
            target=str(target),
            source_size=(w, h),
            target_size=(w * s, h * s),
            pages=len(infos),
            layout=str(infos[0].layout),
            dtype=infos[0].dtype.name,
            scale=s,
            model=self._spec.name,
            provider=self.provider,
            precision=self.precision,
            tile=min(self.tile, max(h, w)),
            seconds=round(seconds, 3),
            mpx_per_s=round(pixels / 1e6 / seconds, 3),
            peak_memory=peak_memory(),
            warnings=warnings,
        )

    def estimate(self, source: str | Path, target: str | Path, **options: Any) -> Estimate:
        """Tell what `upscale_file` of the same arguments would take: bytes, memory, seconds.

        Takes up to about half a second for the first image of a kind, to time a few windows. Nothing is
        written. What cannot fit is not refused: see `estimates.refuse`.

        Parameters
        ----------
        options : those of `job`

        Raises
        ------
        SourceMissingError, ImageError, OutputError
            If the source cannot be read.
        """
        from .jobs import estimate as preflight

        self._check_open()
        todo = self.job(source, target, **options)
        return preflight.estimate(todo, self._spec, self._setup, self._pool, self._rates)

    def job(
        self,
        source: str | Path,
        target: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        page: int | None = None,
        compress: str = "deflate",
        cog: bool = False,
        quality: int | None = None,
        max_pixels: int | None = None,
        bands: bool = False,
        nodata: Nodata = None,
        classes: bool = False,
        data_range: Range | None = None,
    ) -> Job:
        """Return what `upscale_file` would do with the same arguments, without doing it.

        Two jobs of equal ``facts()`` have the same result.
        """
        output = Output(compress, cog, quality, self._threads)
        from .jobs.file_job import Job

        return Job(
            Path(source),
            Path(target),
            self.scale,
            self._identity(data_range),
            output,
            overwrite,
            resume,
            page,
            max_pixels,
            Reading(bands, nodata, classes),
        )

    def stream(
        self,
        source: str | Path | Any,
        *,
        region: tuple[slice, slice] | None = None,
        page: int = 1,
        max_pixels: int | None = None,
        bands: bool = False,
        alpha: bool | None = None,
        nodata: Nodata = None,
        classes: bool = False,
        data_range: Range | None = None,
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
        """Upscale an image and hand out its parts as they are finished, in bounded memory.

        Parameters
        ----------
        source : an image file, or an array as `upscale` or `upscale_into` takes
        region : (rows, columns) of the source, without steps; only this part is read and upscaled,
            and is, pixel for pixel, that part of the whole result
        page : of a TIFF, from 1
        max_pixels, bands, nodata, classes, data_range : as in `upscale_file`
        alpha : as in `upscale`, of arrays; a file says it itself

        Yields
        ------
        ((rows, columns), part)
            Where the part belongs in the result (of the region, if there is one), as slices, and the
            part, (h, w, C) of the source's type: ``out[window] = part``. Parts come row by row, left to
            right, and cover the result once. Work goes on while the caller is busy with a part, a few
            parts ahead.

        Raises
        ------
        SourceMissingError, ImageError, ArgumentError
        """
        with ExitStack() as stack:
            value = None if nodata == "none" else nodata
            if isinstance(source, str | Path):
                if alpha is not None:
                    raise ArgumentError(f"{source}: alpha is said of arrays; bands=True overrules a file's")
                reading = Reading(bands, nodata, classes)
                opened: Source = stack.enter_context(open_source(Path(source), page, max_pixels, reading))
            elif isinstance(source, np.ndarray):
                opened = array_source(source, bands=bands, alpha=alpha, classes=classes, nodata=value)
            else:
                opened = SlicedSource(source, bands=bands, alpha=alpha, classes=classes, nodata=value)
            check_layout(self._spec, opened.info.layout)
            spans = streaming.spans_of(region, opened.info.shape)
            run = partial(self._process, opened, progress=None, data_range=data_range, region=spans)
            yield from streaming.parts(opened.info.scaled(self.scale), run, spans, self.scale)

    def tune(self, progress: Callable[[Trial], None] | None = None) -> list[Trial]:
        """Measure how this machine runs the model fastest, use it, and keep it for next time.

        Takes some seconds. Whether windows are computed one after the other by all threads or one
        by each is tried, then tiles from 96 to 768 HR pixels. It is kept in the user's cache folder, or where
        the environment variable ``SRCNN_RT_CACHE`` says, and found there by ``tile="auto"``.

        Parameters
        ----------
        progress : called with every trial

        Returns
        -------
        All trials, the fastest last.

        Raises
        ------
        ArgumentError
            If the engine runs whole images.
        """
        if self._whole:
            raise ArgumentError("an engine that runs whole images has no tile to be tuned")
        with self._tuning:
            return self._tune(progress)

    def _tune(self, progress: Callable[[Trial], None] | None) -> list[Trial]:
        setups = [replace(setup, tile=_auto(setup)) for setup in self._loader.layouts(self._setup)]
        before = self._setup
        self._setup, found = autotune.fastest(setups, _lr, self._pool, progress)
        self._spec, self._untuned = self._setup.model, False
        for setup in (before, *setups):
            if setup.networks != self._setup.networks:
                loader.forget(setup)
        best = self._setup
        streams = best.workers // max(1, best.devices)
        chosen = tuning_cache.Choice(best.tile * self.scale, streams, best.threads, best.variant)
        tuning_cache.remember(self._key, chosen)
        return found

    @staticmethod
    def _gpus(setup: Setup) -> str:
        """Return the names of the GPUs in use, as a measurement is kept for them."""
        if not setup.devices:
            return ""
        from .backends.cuda import devices as cuda

        names = {d.index: d.name for d in cuda.devices()}
        return " + ".join(names.get(gpu.index, gpu.kind) for gpu in setup.gpus)

    def _range(self, asked: Range | None) -> DataRange:
        return self._data_range if asked is None else DataRange.of(asked)

    def _identity(self, data_range: Range | None) -> dict[str, Any]:
        """Return what a result depends on beside its source, as a journal keeps it."""
        return {
            "version": __version__,
            "model": f"{self._spec.name} {self._hash}",
            "provider": self._provider,
            "precision": self._precision,
            "tile": "whole" if self._whole else self._asked,
            "range": [*self._spec.range.gain, *self._spec.range.offset],
            "data range": "any" if self._spec.equivariant else str(self._range(data_range)),
        }

    def _process(
        self,
        source: Source,
        sink: Sink,
        progress: Progress | None,
        data_range: Range | None = None,
        region: tuple[Span, Span] | None = None,
    ) -> None:
        shape = source.info.shape if region is None else (region[0].size, region[1].size)
        self._ready_for(replace(source.info, shape=shape))
        executor.process(
            source, sink, self._setup, self._pool, progress,
            region=region, data_range=self._range(data_range),
        )  # fmt: skip

    def _plan_for(self, info: ImageInfo, sink: Sink) -> Plan:
        return executor.plan_for(self._setup, info, sink)

    def _run(
        self,
        source: Source,
        sink: Sink,
        plan: Plan,
        first: int,
        written: Callable[[int, Record], None],
        progress: Progress | None,
        data_range: DataRange,
    ) -> None:
        executor.process(
            source, sink, self._setup, self._pool, progress,
            plan=plan, first=first, written=written, data_range=data_range,
        )  # fmt: skip

    def _check_open(self) -> None:
        if self._closed:
            raise ArgumentError("the engine is closed")

    def _ready_for(self, *infos: ImageInfo) -> None:
        """Tune before the first large image; classes need no model."""
        self._check_open()
        pixels = sum(i.shape[0] * i.shape[1] for i in infos if i.layout.color != "classes")
        if self._untuned and pixels * self.scale**2 >= TUNE_FROM:
            with self._tuning:
                if self._untuned:  # not by another thread meanwhile
                    self._tune(None)


def _auto(setup: Setup) -> int:
    """Return the tile, LR pixels, where nothing was measured."""
    if setup.devices:
        return _lr(GPU_TILE_HR, setup.model)
    return _lr(HEAVY_TILE_HR if setup.model.facts.macs >= HEAVY else AUTO_TILE_HR, setup.model)


def _lr(hr: int, model: ModelSpec) -> int:
    """Return a tile of about `hr` HR pixels in LR pixels, a multiple of the period."""
    return geometry.ceil_to(max(geometry.MIN_TILE, hr // model.scale), model.period)


def upscale(image: NDArray[Any], model: str | Path = "srcnn-915-x2", **options: Any) -> NDArray[Any]:
    """Upscale one array; `options` are those of `Engine`.

    For more than one image make an `Engine` and keep it.
    """
    with Engine(model, **options) as engine:
        made: NDArray[Any] = engine.upscale(image)
        return made
