"""`Engine`: upscale arrays, files and anything that can be sliced with one model."""

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
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from ._version import __version__
from .backends import tuning_cache
from .backends.loader import Loader
from .backends.untiled import load_whole
from .errors import ArgumentError, ModelError
from .execution import autotune, executor, streaming
from .execution.autotune import Trial
from .execution.executor import Progress
from .execution.normalization import DataRange
from .execution.planner import plan_for
from .image.info import ImageInfo, Nodata, Reading
from .io.array_like import SlicedSink, SlicedSource
from .io.in_memory import ArraySink, array_source
from .io.protocols import Closing, Sink, Source
from .io.registry import open_source
from .jobs.report import Report
from .models import spec
from .models.margins import check_layout
from .models.prepare import Program
from .models.spec import ModelSpec
from .options import ArrayOptions, EngineOptions, FileOptions, OutputOptions, Range
from .tiling import geometry
from .tiling.geometry import Span

if TYPE_CHECKING:
    from .jobs.estimate import Estimate
    from .jobs.job import Job

TUNE_FROM = 10**9  # HR pixels; tile="auto" measures before a larger image
WHOLE = 2**40  # LR pixels; a tile that every image fits into


class Engine(Closing):
    """Upscale images of any size with one model. The result does not depend on `tile`.

    An engine may be used from several threads at once, and as a context manager. It changes no global state:
    no environment variables, logging configuration, warning filters or thread settings of other libraries.
    It logs to ``logging.getLogger("srcnn_rt")``.

    Parameters
    ----------
    model : str, Path or bytes
        A bundled name (see `list_models`), ``"bicubic-x2"`` … ``"bicubic-x8"``, the path of an ONNX
        file, or the bytes of one.
    provider : {"auto", "cpu", "cuda", "native", "openvino"}
        ``"auto"`` uses CUDA where it works, else the CPU: the native backend for SRCNN and chains of 3x3
        convolutions, OpenVINO where `precision` is ``"fast"`` and it is faster, and ONNX Runtime
        (``"cpu"``) otherwise.
        Any other provider is used or `ProviderError` is raised.
    tile : int, "auto" or None
        Side of a tile in LR pixels, without margins, at least 8. ``"auto"`` uses what `tune` measured.
        Without a measurement it uses 256 HR pixels (512 for heavy models and in the native backend), and
        measures before an image of over 1,000 Mpx. None runs the model once on the whole image, which
        must then fit into memory. Models with an unbounded receptive field can only be run that way.
    threads : int, optional
        Threads that run the network. All available CPUs by default.
    model_range : str, optional
        The values that the model takes for black and white, where its file does not say: ``"0..255"``,
        ``"-1..1"``, or ``"mean=A,B,C std=D,E,F"``. By default luminance is 16/255 to 235/255 and colour
        0 to 1.
    precision : {"exact", "fast"}
        ``"exact"`` computes in float32. ``"fast"`` computes in float16 on a GPU and in bfloat16 on the CPU
        (OpenVINO), except where provider ``"auto"`` finds the native backend faster in float32. It is
        refused where the hardware lacks it, or where the model would lose more than 0.01 dB (float16)
        or 0.02 dB (bfloat16).
    device : int, str or sequence of int, optional
        Index of the GPU, or of several that share the work: ``0``, ``"0,1"``, ``(0, 1)``. Implies provider
        ``"cuda"``.
    gpu_memory : int or str, optional
        Memory that activations may take on each GPU: bytes, or ``"8GB"``. Where it does not
        suffice, fewer windows and then smaller windows are computed at once.
    data_range : str or (float, float)
        Which samples are black and white, for models that need it (not `ModelSpec.equivariant` ones):
        ``"LOW..HIGH"``; ``"dtype"``, the type's range for integers and [0, 1] for floats; ``"auto"``, the
        range that the file declares, else the same, but an image that clearly uses another range is
        refused.
    trust : bool
        Skip the self-check. By default a model that is not bundled is checked once per machine: a small
        image is upscaled in tiles and whole, and the results must agree.
    inputs : mapping of str to float, optional
        Constant values for inputs of the model other than the image, such as a noise level.
    output : str, optional
        Name of the output that is the image, for models with several.
    channel_order : {"rgb", "bgr"}
        Order of the three channels that the model takes. Whether channels come last (N, H, W, C) is detected.

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
        self._options = EngineOptions.of(provider, precision, tile, threads, device, gpu_memory)
        self._data_range = DataRange.of(data_range)
        interface_options = None
        if (inputs, output, channel_order) != (None, None, "rgb"):
            from .models.analysis import InterfaceOptions  # imports onnx

            interface_options = InterfaceOptions.of(inputs, output, channel_order)
        data, facts = (load_whole if tile is None else spec.load)(model, interface_options)
        if model_range is not None:
            facts = spec.with_range(facts, model_range)
        program = Program(data, facts, False)
        self._hash = hashlib.sha256(data).hexdigest()[:16]
        self._load(program)
        self._pool = ThreadPoolExecutor(max(self._options.threads, self._setup.workers), "srcnn-work")
        self._tuning = threading.RLock()
        self._rates: dict[Any, float] = {}
        self._closed = False
        if not (trust or tile is None or spec.is_builtin(model)):
            self._self_check(program)

    def _load(self, program: Program) -> None:
        """Load the model into a runtime, with the tile that was asked for, measured, or the default."""
        options = self._options
        self._loader = Loader(program, options)
        setup = self._loader.open()
        self._key = tuning_cache.key_for(
            program.data, setup.provider, options.precision, options.threads, autotune.gpu_names(setup)
        )
        choice = tuning_cache.recall(self._key) if options.tile == "auto" else None
        self._untuned = choice is None and options.tile == "auto"
        if options.tile is None:
            tile = WHOLE
        elif choice is not None:
            setup = self._loader.chosen(choice, setup)
            tile = autotune.lr_tile(choice.tile, setup.model)
        elif options.tile == "auto":
            tile = autotune.default_tile(setup)
        else:
            tile = geometry.ceil_to(options.tile, setup.model.period)
        self._setup = replace(setup, tile=tile)
        self._spec, self._provider = setup.model, setup.provider

    def _self_check(self, program: Program) -> None:
        """Compare tiles with a whole image, once per model and machine.

        Raises
        ------
        ModelError
            If they differ.
        """
        if tuning_cache.is_checked(self._key):
            return
        from .execution import self_check  # most engines run bundled models

        try:
            fast = self.precision == "fast"
            done = self_check.check(program.data, program.spec, self._setup, self._pool, fast=fast)
        except ModelError as error:
            self.close()
            raise ModelError(f"{program.spec.name}: {error}") from error
        if done:
            tuning_cache.note_checked(self._key)

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def scale(self) -> int:
        """Scale factor."""
        return self._spec.scale

    @property
    def margin(self) -> int:
        """LR pixels around each tile that the model needs, derived from its receptive field."""
        return self._spec.margin

    @property
    def tile(self) -> int:
        """Side of a tile in LR pixels as used: a multiple of the model's period."""
        return self._setup.tile

    @property
    def provider(self) -> str:
        """Active provider: ``"cpu"``, ``"cuda"``, ``"native"`` or ``"openvino"``."""
        return self._provider

    @property
    def precision(self) -> str:
        """``"exact"`` or ``"fast"``."""
        return self._options.precision

    def close(self) -> None:
        """Release the model. Later calls of `upscale` raise `ArgumentError`."""
        if self._closed:
            return
        self._closed = True
        self._pool.shutdown()
        self._setup.close()
        del self._setup

    def upscale(
        self,
        image: Any,
        *,
        data_range: Range | None = None,
        progress: Progress | None = None,
        **options: Unpack[ArrayOptions],
    ) -> Any:
        """Upscale an array.

        An array of a library that supports DLPack (torch, CuPy, JAX) gives an array of the same library on
        the same device. An array on a GPU stays there; it takes no `nodata`, and NaN is not looked for.

        Parameters
        ----------
        image : array_like, shape (H, W) or (H, W, C)
            Of any type in `SAMPLE_TYPES`, with any strides. C = 1 is gray, 2 gray + alpha, 3 RGB, 4 RGBA
            (not premultiplied); other counts are bands. Values may be in any unit. Integers are rounded
            half to even and clipped to their type; floats are neither. Alpha runs from 0 to the type's
            largest value, or 1.0.
        data_range : str or (float, float), optional
            As in `Engine`, whose range is the default.
        progress : callable, optional
            Called with the HR pixels done and the HR pixels in total.
        **options
            `bands`, `alpha`, `nodata` and `classes`, as in `ArrayOptions`.

        Returns
        -------
        ndarray, shape (s·H, s·W) or (s·H, s·W, C)
            Of the same type.

        Raises
        ------
        ArgumentError
            If the shape or type is not supported, or the array lies on a GPU that this engine does not use.
        """
        if not isinstance(image, np.ndarray) and hasattr(image, "__dlpack__"):
            return self._upscale_dlpack(image, data_range, progress, options)
        source = array_source(image, **options)
        sink = ArraySink(source.info.scaled(self.scale))
        self._process(source, sink, progress, data_range)
        return sink.array if np.ndim(image) == 3 else sink.array[:, :, 0]

    def _upscale_dlpack(
        self, image: Any, data_range: Range | None, progress: Progress | None, options: ArrayOptions
    ) -> Any:
        """Upscale an array of another library on the device where it lies."""
        from .backends.cuda import arrays

        self._check_open()
        convert = arrays.importer(image)
        gpu = next((g for g in self._setup.gpus if g.holds(image.__dlpack_device__())), None)
        if gpu is None:
            host = arrays.from_host_dlpack(image, self._provider)
            return convert(self.upscale(host, data_range=data_range, progress=progress, **options))
        source = arrays.from_dlpack(image, gpu, self._setup.dlpack_stream(gpu), **options)
        sink = arrays.DeviceSink(gpu, source.info.scaled(self.scale))
        setup = self._setup
        if self._options.tile == "auto":
            setup = replace(setup, tile=autotune.device_tile(setup))
        executor.process(source, sink, setup, self._pool, progress, data_range=self._range(data_range))
        return arrays.to_dlpack(sink.array, image, gpu)

    def upscale_into(
        self,
        source: Any,
        target: Any,
        *,
        axes: str | None = None,
        data_range: Range | None = None,
        progress: Progress | None = None,
        **options: Unpack[ArrayOptions],
    ) -> None:
        """Upscale anything that can be sliced into anything that supports slice assignment.

        Zarr and HDF5 arrays, memory maps and dask arrays are read window by window and written in whole
        chunks of the target, each once, in bounded memory.

        Parameters
        ----------
        source : array_like
            Has ``shape``, ``dtype`` (one of `SAMPLE_TYPES`) and slices that NumPy can convert.
        target : array_like
            Has ``shape``, s times that of the source, the same ``dtype``, and slice assignment.
        axes : str, optional
            The letters y, x and c in the order of the axes of both; ``"yx"`` or ``"yxc"`` by default.
        data_range, progress, **options
            As in `upscale`.

        Raises
        ------
        ArgumentError
            If a shape or type does not fit.
        """
        opened = SlicedSource(source, axes, **options)
        sink = SlicedSink(target, opened.info.scaled(self.scale), self.scale, axes)
        self._process(opened, sink, progress, data_range)

    def upscale_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        progress: Progress | None = None,
        **options: Unpack[FileOptions],
    ) -> Report:
        """Upscale an image file. TIFF and Zarr stream in bounded memory; other formats are decoded whole.

        The result grows as ``TARGET.partial`` with a journal beside it and appears under its name when it is
        complete. A job that ended early (Ctrl-C, a full disk, a killed process) can be resumed.

        GDAL's block cache belongs to the process: by default it takes up to 5% of the machine's memory. The
        command line sets ``GDAL_CACHEMAX`` to 32 MB.

        Parameters
        ----------
        source : str or Path
            A TIFF, PNG, JPEG, WebP, AVIF, JPEG XL, BMP or Zarr image.
        target : str or Path
            Its suffix decides the format.
        progress : callable, optional
            Called with the HR pixels done and the HR pixels in total.
        **options
            As in `FileOptions`.

        Returns
        -------
        Report

        Raises
        ------
        SourceMissingError, ImageError, OutputError
            Naming the file and the rule; also if the result surely does not fit on the disk or into
            memory. Nothing is left under the name `target`.
        ArgumentError
            If the file's samples do not fit `nodata` or `classes`.
        """
        from .jobs import alpha_check, estimate, file_job

        start = time.perf_counter()
        job = self.job(source, target, **options)
        estimate.check(job, self._spec, self._setup)
        with file_job.Pages(job, lambda info: check_layout(self._spec, info.layout)) as pages:
            estimate.check(job, self._spec, self._setup, pages.infos)
            warnings = alpha_check.doubts(job, pages.infos)
            self._prepare_for(*pages.infos)
            run = partial(
                executor.process,
                setup=self._setup,
                pool=self._pool,
                data_range=self._range(options.get("data_range")),
            )
            file_job.upscale(job, pages, partial(plan_for, self._setup), run, progress)
        seconds = time.perf_counter() - start
        return Report.of(job, pages.infos, self._setup, seconds, warnings)

    def estimate(self, source: str | Path, target: str | Path, **options: Unpack[FileOptions]) -> Estimate:
        """Return what `upscale_file` would need with the same arguments: bytes, memory, seconds.

        The first image of a kind takes up to half a second, to time a few windows. Nothing is written, and
        nothing is refused for its size.

        Raises
        ------
        SourceMissingError, ImageError, OutputError
            If the source cannot be read.
        """
        from .jobs import estimate

        self._check_open()
        job = self.job(source, target, **options)
        return estimate.estimate(job, self._spec, self._setup, self._pool, self._rates)

    def job(self, source: str | Path, target: str | Path, **options: Unpack[FileOptions]) -> Job:
        """Return what `upscale_file` would do with the same arguments, without doing it.

        Two jobs with equal ``facts()`` have the same result.

        Raises
        ------
        ArgumentError
        """
        from .jobs.job import Job

        given: dict[str, Any] = {**options}
        data_range = given.pop("data_range", None)
        written = {name: given.pop(name) for name in ("compress", "cog", "quality") if name in given}
        reading = {name: given.pop(name) for name in ("bands", "nodata", "classes") if name in given}
        return Job(
            Path(source),
            Path(target),
            self.scale,
            self._identity(data_range),
            OutputOptions(**written, threads=self._options.threads),
            reading=Reading(**reading),
            **given,
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
        """Upscale an image and yield its parts as they are finished, in bounded memory.

        Parameters
        ----------
        source : str, Path or array_like
            An image file, or an array as for `upscale` or `upscale_into`.
        region : (slice, slice), optional
            Rows and columns of the source, without steps. Only this part is read and upscaled; it equals
            the same part of the whole result bit for bit.
        page : int
            Of a TIFF or Zarr, from 1.
        max_pixels, bands, nodata, classes, data_range
            As in `upscale_file`.
        alpha : bool, optional
            As in `upscale`, for arrays only. A file says itself whether it has alpha.

        Yields
        ------
        window : (slice, slice)
            Rows and columns of the part in the result, or in the upscaled region.
        part : ndarray, shape (h, w, C)
            Of the source's type: ``out[window] = part``. Parts come row by row, left to right, and cover the
            result once. A few parts are computed ahead while the caller works on one.

        Raises
        ------
        SourceMissingError, ImageError, ArgumentError
        """
        with ExitStack() as stack:
            opened: Source
            if isinstance(source, str | Path):
                if alpha is not None:
                    raise ArgumentError(f"{source}: alpha is for arrays; use bands=True to ignore a file's")
                reading = Reading(bands, nodata, classes)
                opened = stack.enter_context(open_source(Path(source), page, max_pixels, reading))
            else:
                value = None if nodata == "none" else nodata
                make = array_source if isinstance(source, np.ndarray) else SlicedSource
                opened = make(source, bands=bands, alpha=alpha, classes=classes, nodata=value)
            check_layout(self._spec, opened.info.layout)
            spans = streaming.spans_of(region, opened.info.shape)
            run = partial(self._process, opened, progress=None, data_range=data_range, region=spans)
            yield from streaming.parts(opened.info.scaled(self.scale), run, spans, self.scale)

    def tune(self, progress: Callable[[Trial], None] | None = None) -> list[Trial]:
        """Measure which tile and threads are fastest on this machine, use them and save them.

        Takes some seconds. One window at a time on all threads is compared with one window per thread, then
        tiles from 96 to 768 HR pixels are. The result is saved in the user's cache folder, or where
        the environment variable ``SRCNN_RT_CACHE`` says, and used by ``tile="auto"``.

        Parameters
        ----------
        progress : callable, optional
            Called with every `Trial`.

        Returns
        -------
        list of Trial
            All trials, the fastest last.

        Raises
        ------
        ArgumentError
            If the engine runs whole images.
        """
        if self._options.tile is None:
            raise ArgumentError("an engine with tile=None has no tile to be tuned")
        with self._tuning:
            self._setup, choice, trials = autotune.tune(self._loader, self._setup, self._pool, progress)
            self._spec, self._untuned = self._setup.model, False
        tuning_cache.remember(self._key, choice)
        return trials

    def _range(self, asked: Range | None) -> DataRange:
        return self._data_range if asked is None else DataRange.of(asked)

    def _identity(self, data_range: Range | None) -> dict[str, Any]:
        """Return what a result depends on beside its source, as a journal stores it."""
        return {
            "version": __version__,
            "model": f"{self._spec.name} {self._hash}",
            "provider": self._provider,
            "precision": self.precision,
            "tile": self._options.tile or "whole",
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
        """Upscale a source that is not a file job."""
        shape = source.info.shape if region is None else (region[0].size, region[1].size)
        self._prepare_for(replace(source.info, shape=shape))
        executor.process(
            source, sink, self._setup, self._pool, progress,
            region=region, data_range=self._range(data_range),
        )  # fmt: skip

    def _check_open(self) -> None:
        if self._closed:
            raise ArgumentError("the engine is closed")

    def _prepare_for(self, *infos: ImageInfo) -> None:
        """Tune before the first large image. Categories need no model."""
        self._check_open()
        pixels = sum(i.shape[0] * i.shape[1] for i in infos if i.layout.color != "classes")
        if self._untuned and pixels * self.scale**2 >= TUNE_FROM:
            with self._tuning:
                if self._untuned:  # another thread may have tuned meanwhile
                    self.tune()


def upscale(image: NDArray[Any], model: str | Path = "srcnn-915-x2", **options: Any) -> NDArray[Any]:
    """Upscale one array; `options` are those of `Engine`.

    For several images, create one `Engine` and reuse it.
    """
    with Engine(model, **options) as engine:
        made: NDArray[Any] = engine.upscale(image)
        return made
