"""`Engine`: upscale arrays, files and anything that can be sliced with one model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ._system import arguments
from ._system.forking import PerProcess
from ._system.safe_files import checking
from ._version import __version__
from .backends import tuning_cache
from .backends.loader import Loader, Setup
from .backends.untiled import load_whole
from .errors import ArgumentError, ClosedError, ModelError
from .execution import autotune, executor, pickling, streaming
from .execution.autotune import Trial
from .execution.ending import Ending, Event
from .execution.executor import Progress
from .execution.normalization import DataRange
from .execution.planner import plan_for
from .execution.running import Running, again
from .image.info import ImageInfo, Nodata, Reading
from .io import pillow_images
from .io.array_axes import axes_of, dimensions_of, is_data_array, meaning_of
from .io.array_like import SlicedSink
from .io.array_types import Exported, Labelled, Masked, Sample, SupportsArray
from .io.in_memory import Images, as_sliced, image_count, shared
from .io.opened import OpenImage, is_file, source_of
from .io.protocols import Closing, Sink, Source
from .jobs.report import Report
from .models import spec
from .models.margins import check_layout
from .models.prepare import Program
from .models.spec import ModelSpec
from .options import (
    ArrayLayout,
    ArrayOptions,
    ChannelOrder,
    EngineArguments,
    EngineOptions,
    FileOptions,
    OutputOptions,
    Precision,
    Provider,
    Range,
    Tile,
)
from .tiling import geometry
from .tiling.geometry import WHOLE, Region

if TYPE_CHECKING:
    from PIL.Image import Image

    from .backends.cuda.devices import Gpu
    from .io.streams import Readable, Writable
    from .jobs.estimate import Estimate
    from .jobs.job import Job

TUNE_FROM = 10**9  # HR pixels; tile="auto" measures before a larger image


class UpscaleOptions(ArrayOptions, total=False):
    """Keyword arguments of `Engine.upscale`."""

    data_range: Range | None
    progress: Progress | None
    cancel: Event | None


class Engine(Closing):
    """Upscale images of any size with one model. The result does not depend on `tile`.

    An engine may be used from several threads at once, and as a context manager. It changes no global state:
    no environment variables, logging configuration, warning filters or thread settings of other libraries.
    It logs to ``logging.getLogger("srcnn_rt")``.

    A process that is forked may go on using the engine, unless it runs on a GPU, and loads the model again
    at the first use. A pickled engine consists of its arguments: a path is opened again where it is
    unpickled, and its content must be the same; bytes are part of the pickle.

    Parameters
    ----------
    model : str, Path or bytes
        A bundled name (see `list_models`), ``"bicubic-x2"`` … ``"bicubic-x8"``, the path of an ONNX
        file, or the bytes of one. All other arguments are given by name.
    provider : {"auto", "cpu", "cuda", "native", "openvino"}
        ``"auto"`` uses CUDA where it works, else the CPU: the native backend for SRCNN and chains of 3x3
        convolutions, and for others ONNX Runtime (``"cpu"``), or OpenVINO where `precision` is ``"fast"``.
        Any other provider is used or `ProviderError` is raised.
    tile : int, "auto" or None
        Side of a tile in LR pixels, without margins, at least 8. ``"auto"`` uses what `tune` measured.
        Without a measurement it uses 256 HR pixels (512 for heavy models and in the native backend), and
        measures before an image of over 1,000 Mpx, which takes some seconds. None runs the model once on the
        whole image, which must then fit into memory. Models with an unbounded receptive field can only be
        run that way.
    threads : int, optional
        Threads that run the network. All available CPUs by default.
    model_range : str, optional
        The values that the model takes for black and white, where its file does not say: ``"0..255"``,
        ``"-1..1"``, or ``"mean=A,B,C std=D,E,F"``. By default luminance is 16/255 to 235/255 and colour
        0 to 1.
    precision : {"exact", "fast"}
        ``"exact"`` computes in float32. ``"fast"`` computes in float16 on a GPU. On a CPU it takes the native
        backend's float32 for models that this backend runs, and bfloat16 (OpenVINO) for others. It is
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

    Attributes
    ----------
    model_hash : str
        First 16 hexadecimal digits of the SHA-256 of the model's content.

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
        *,
        provider: Provider = "auto",
        tile: Tile = "auto",
        threads: int | None = None,
        model_range: str | None = None,
        precision: Precision = "exact",
        device: int | str | Sequence[int] | None = None,
        gpu_memory: int | str | None = None,
        data_range: Range = "auto",
        trust: bool = False,
        inputs: Mapping[str, float] | None = None,
        output: str | None = None,
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        if not isinstance(model, str | Path | bytes):
            raise ArgumentError(f"model must be a name, a path or the bytes of a file, got {model!r}")
        arguments.texts(model_range=model_range, output=output, optional=True)
        arguments.texts(channel_order=channel_order)
        arguments.mappings(inputs=inputs, optional=True)
        arguments.flags(trust=trust)
        self._arguments: EngineArguments = {
            "provider": provider, "tile": tile, "threads": threads, "model_range": model_range,
            "precision": precision, "device": device, "gpu_memory": gpu_memory, "data_range": data_range,
            "trust": trust, "inputs": inputs, "output": output, "channel_order": channel_order,
        }  # fmt: skip
        self._model = pickling.portable(model)
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
        self.model_hash = hashlib.sha256(data).hexdigest()[:16]
        self._load(program)
        self._rates: dict[Any, float] = {}
        self._closed = False
        if not (trust or tile is None or spec.is_builtin(model)):
            self._self_check(program)

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return pickling.rebuild, (type(self), self._model, self._arguments, self.model_hash)

    def __repr__(self) -> str:
        tile = "whole images" if self._options.tile is None else f"tile {self.tile}"
        closed = ", closed" if self._closed else ""
        return (
            f"<Engine {self._spec.name} (x{self.scale}): {self._provider}, {self.precision}, {tile}, "
            f"{self._options.threads} threads{closed}>"
        )

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
        self._running = PerProcess(
            Running.start(replace(setup, tile=tile), options.threads), partial(again, self._loader)
        )
        self._spec, self._provider, self._tile = setup.model, setup.provider, tile

    @property
    def _active(self) -> Running:
        try:
            return self._running.get()
        except LookupError:
            raise ClosedError("the engine is closed") from None

    @property
    def _setup(self) -> Setup:
        return self._active.setup

    @property
    def _pool(self) -> ThreadPoolExecutor:
        return self._active.pool

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
        return self._tile

    @property
    def provider(self) -> str:
        """Active provider: ``"cpu"``, ``"cuda"``, ``"native"`` or ``"openvino"``."""
        return self._provider

    @property
    def precision(self) -> str:
        """``"exact"`` or ``"fast"``."""
        return self._options.precision

    def close(self) -> None:
        """Release the model. Runs of other threads end with `ClosedError`, and so do later calls."""
        if self._closed:
            return
        self._closed = True
        if (running := self._running.take()) is not None:
            running.close()

    @overload
    def upscale(self, image: Masked, **options: Unpack[UpscaleOptions]) -> Masked: ...
    @overload
    def upscale(self, image: NDArray[Sample], **options: Unpack[UpscaleOptions]) -> NDArray[Sample]: ...
    @overload
    def upscale(self, image: Image, **options: Unpack[UpscaleOptions]) -> Image: ...
    @overload
    def upscale(self, image: Exported, **options: Unpack[UpscaleOptions]) -> Exported: ...
    @overload
    def upscale(self, image: Labelled, **options: Unpack[UpscaleOptions]) -> Labelled: ...
    @overload
    def upscale(self, image: SupportsArray, **options: Unpack[UpscaleOptions]) -> NDArray[np.number[Any]]: ...
    def upscale(
        self,
        image: Any,
        *,
        data_range: Range | None = None,
        progress: Progress | None = None,
        cancel: Event | None = None,
        **options: Unpack[ArrayOptions],
    ) -> Any:
        """Upscale an array.

        The result is what was given: an array of NumPy, masked or not, an image of Pillow, a DataArray of
        xarray with all that belongs to it (`srcnn_rt.xarray.upscale`), or an array of a library that supports
        DLPack (torch, CuPy, JAX), on the same device. An array on a GPU stays there; it takes no `nodata`,
        and NaN is not looked for. Everything else gives an array of NumPy.

        Parameters
        ----------
        image : array_like, shape (H, W) or (H, W, C)
            Of any type in `SAMPLE_TYPES`, with any strides, or as `layout` says, such as several images
            (N, C, H, W), which are upscaled one by one. C = 1 is gray, 2 gray + alpha, 3 RGB, 4 RGBA (not
            premultiplied); other counts are bands. An image of Pillow is read as a file of its mode: palettes
            are expanded, CMYK is converted to sRGB, and it is turned upright. Values may be in any unit.
            Integers are rounded half to even and clipped to their type; floats are neither. Alpha runs from 0
            to the type's largest value, or 1.0.
        data_range : str or (float, float), optional
            As in `Engine`, whose range is the default.
        progress : callable, optional
            Called with the HR pixels done and the HR pixels in total.
        cancel : threading.Event, optional
            Once another thread sets it, the call ends with `CancelledError` within a fraction of a second.
        **options
            `layout`, `bands`, `alpha`, `nodata` and `classes`, as in `ArrayOptions`.

        Returns
        -------
        ndarray, shape (s·H, s·W) or (s·H, s·W, C)
            Of the same type, and with the same axes.

        Raises
        ------
        ArgumentError
            If the shape or type is not supported, if it is not clear which axis is which, or if the array
            lies on a GPU that this engine does not use.
        CancelledError, ClosedError
            If `cancel` was set, or the engine was closed.
        """
        call: dict[str, Any] = {"data_range": data_range, "progress": progress, "cancel": cancel}
        if pillow_images.is_image(image):
            samples = pillow_images.samples_of(image)
            given: ArrayOptions = {**samples.options, **options}
            return samples.image(self.upscale(samples.array, **call, **given))
        if is_data_array(image):
            from .xarray import upscale as upscale_data_array

            dims = dimensions_of(image, options.pop("layout", None))
            return upscale_data_array(image, self, **dims, **call, **options)
        array = image if hasattr(image, "__dlpack__") else as_sliced(image)
        if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
            return self._upscale_images(array, *meaning_of(array, options), **call)
        return self._upscale_dlpack(array, options, **call)

    def _upscale_images(
        self, array: Any, axes: str, meaning: dict[str, Any], progress: Progress | None, **call: Any
    ) -> NDArray[Any]:
        """Upscale the images of an array in host memory."""
        array = array if isinstance(array, np.ndarray) else np.asarray(array)
        images = Images(array, axes, self.scale, **meaning)
        for k, (source, sink) in enumerate(images):
            self._process(source, sink, shared(progress, k, images.count), **call)
        return images.result

    def _upscale_dlpack(
        self, image: Any, options: ArrayOptions, progress: Progress | None, **call: Any
    ) -> Any:
        """Upscale the images of an array of another library on the device where it lies."""
        from .backends.cuda import arrays

        self._check_open()
        convert = arrays.importer(image)
        gpu = next((g for g in self._setup.gpus if g.holds(image.__dlpack_device__())), None)
        if gpu is None:
            host = arrays.from_host_dlpack(image, self._provider)
            return convert(self._upscale_images(host, *meaning_of(image, options), progress, **call))
        axes, meaning = meaning_of(image, options)

        def upscale_one(part: Any, k: int, count: int) -> Any:
            return self._upscale_on(gpu, part, meaning, shared(progress, k, count), **call)

        return arrays.image_by_image(arrays.unnamed(image), axes, upscale_one)

    def _upscale_on(
        self,
        gpu: Gpu,
        image: Any,
        meaning: dict[str, Any],
        progress: Progress | None,
        data_range: Range | None,
        cancel: Event | None,
    ) -> Any:
        """Upscale an (H, W) or (H, W, C) array in the memory of a GPU."""
        from .backends.cuda import arrays

        source = arrays.from_dlpack(image, gpu, self._setup.dlpack_stream(gpu), **meaning)
        sink = arrays.DeviceSink(gpu, source.info.scaled(self.scale))
        setup = self._setup
        if self._options.tile == "auto":
            setup = replace(setup, tile=autotune.device_tile(setup))
        with self._active.runs.begin(cancel) as ending:
            executor.process(
                source, sink, setup, self._pool, progress, data_range=self._range(data_range), ending=ending
            )
        return arrays.to_dlpack(sink.array, image, gpu)

    def upscale_into(
        self,
        source: Any,
        target: Any,
        *,
        region: tuple[slice, slice] | None = None,
        data_range: Range | None = None,
        progress: Progress | None = None,
        cancel: Event | None = None,
        **options: Unpack[ArrayOptions],
    ) -> None:
        """Upscale anything that can be sliced into anything that supports slice assignment.

        Zarr and HDF5 arrays, memory maps and dask arrays are read window by window and written in whole
        chunks of the target, each once, in bounded memory.

        Parameters
        ----------
        source : array_like, str, Path or OpenImage
            Has ``shape``, ``dtype`` (one of `SAMPLE_TYPES`) and slices that NumPy can convert. Or an image
            file, or one that `open_image` opened.
        target : array_like
            Has ``shape``, s times that of the source, the same ``dtype``, and slice assignment.
        region : (slice, slice), optional
            Rows and columns of the source, without steps, as for `stream`. Only this part is read and
            upscaled. The target is as large as the result of the region, or as that of the whole source;
            then the region is written at its place, and the rest is left alone.
        data_range, progress, cancel, **options
            As in `upscale`. The layout is that of both arrays.

        Raises
        ------
        ArgumentError
            If a shape or type does not fit.
        SourceMissingError, ImageError
            If a file cannot be read.
        CancelledError, ClosedError
            If `cancel` was set, or the engine was closed. The target is filled in part.
        """
        layout = options.get("layout")
        axes, s = axes_of(target, layout), self.scale
        count = image_count(target, axes)
        of_source = 1 if is_file(source) else image_count(source, axes_of(source, layout))
        if of_source != count:
            raise ArgumentError(f"the source has {of_source} images, the target {count}")
        for k in range(count):
            at = {"n": k} if "n" in axes else None
            with source_of(source, image=k, look=region is None, **options) as opened:
                part = streaming.region_of(region, opened.info.shape)
                info, sizes = opened.info.scaled(s), dict(zip(axes, target.shape, strict=True))
                if (sizes["y"], sizes["x"]) == info.shape:
                    part = replace(part, corner=(0, 0))
                else:
                    info = replace(info, shape=part.scaled_shape(s))
                sink = SlicedSink(target, info, s, axes, at=at)
                reported = shared(progress, k, count)
                self._process(opened, sink, reported, data_range, part if region else None, cancel)

    def upscale_file(
        self,
        source: str | Path | bytes | bytearray | memoryview | Readable,
        target: str | Path | Writable,
        *,
        format: str | None = None,  # noqa: A002 (Pillow's name for it)
        progress: Progress | None = None,
        cancel: Event | None = None,
        **options: Unpack[FileOptions],
    ) -> Report:
        """Upscale an image file. TIFF and Zarr stream in bounded memory; other formats are decoded whole.

        The result grows as ``TARGET.partial`` with a journal beside it and appears under its name when it is
        complete. A job that ended early (Ctrl-C, a full disk, a killed process) can be resumed.

        GDAL's block cache belongs to the process: by default it takes up to 5% of the machine's memory. The
        command line sets ``GDAL_CACHEMAX`` to 32 MB.

        Parameters
        ----------
        source : str, Path, bytes-like, file-like or rasterio dataset
            A TIFF, PNG, JPEG, WebP, AVIF, JPEG XL, BMP or Zarr image. Also a URL such as
            ``"s3://bucket/a.tif"`` (extra ``remote``), the content of a file, an object open in binary mode,
            which is read to its end, and a dataset open for reading, or a ``MemoryFile``.
        target : str, Path or file-like
            The suffix of a path or URL decides the format. An object open in binary mode, and a URL, get the
            result when it is complete; such a job cannot be resumed.
        format : str, optional
            Format of a result that goes to an object, as in `upscale_bytes`.
        progress : callable, optional
            Called with the HR pixels done and the HR pixels in total.
        cancel : threading.Event, optional
            As in `upscale`. What is finished is kept, as after Ctrl-C, and can be resumed.
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
        CancelledError, ClosedError
            If `cancel` was set, or the engine was closed.
        """
        from .jobs import unnamed

        start = time.perf_counter()
        if isinstance(source, OpenImage):
            raise ArgumentError(f"{source.name}: is open already; upscale_file takes what open_image takes")
        overwrite = options.get("overwrite", False)
        with unnamed.places(source, target, format, overwrite=overwrite) as places:
            job = self.job(places.source, places.target, **options)
            values = self._range(options.get("data_range"))
            infos, warnings = self._upscale_job(job, places.upscale, progress, values, cancel)
        seconds = time.perf_counter() - start
        return places.named(Report.of(job, infos, self._setup, seconds, warnings))

    def upscale_bytes(
        self,
        data: bytes | bytearray | memoryview,
        *,
        format: str | None = None,  # noqa: A002 (Pillow's name for it)
        progress: Progress | None = None,
        cancel: Event | None = None,
        **options: Unpack[FileOptions],
    ) -> bytes:
        """Upscale the content of an image file, as `upscale_file` upscales the file, with its metadata.

        Content of over 64 MB, and the growing result, lie in temporary files that other users cannot open.

        Parameters
        ----------
        data : bytes-like
            A TIFF, PNG, JPEG, WebP, AVIF, JPEG XL or BMP.
        format : str, optional
            Format of the result: ``"tif"``, ``"png"``, ``"jpg"``, ``"webp"``, ``"avif"``, ``"jxl"`` or
            ``"bmp"``. None means that of `data`.
        progress, cancel : optional
            As in `upscale_file`.
        **options
            As in `FileOptions`. `max_pixels` is 2³⁰ by default, also for a TIFF.

        Returns
        -------
        bytes
            The content of the result's file.

        Raises
        ------
        ImageError, OutputError, ArgumentError
            As for a file. The message names "the data" or "the result", and no path of this machine.
        """
        from .io.codecs.integrity import MAX_PIXELS

        result = BytesIO()
        limited: FileOptions = {"max_pixels": MAX_PIXELS, **options}
        self.upscale_file(data, result, format=format, progress=progress, cancel=cancel, **limited)
        return result.getvalue()

    def _upscale_job(
        self,
        job: Job,
        upscale: Callable[..., None],
        progress: Progress | None,
        data_range: DataRange,
        cancel: Event | None,
    ) -> tuple[list[ImageInfo], tuple[str, ...]]:
        """Upscale the pages of a file job; return their infos, and warnings."""
        from .jobs import alpha_check, estimate, file_job

        arguments.callables(progress=progress, optional=True)
        with ExitStack() as stack:
            ending = stack.enter_context(self._active.runs.begin(cancel))
            estimate.check(job, self._spec, self._setup)
            check = partial(check_layout, self._spec)
            pages = stack.enter_context(file_job.Pages(job, lambda info: check(info.layout)))
            estimate.check(job, self._spec, self._setup, pages.infos)
            warnings = alpha_check.doubts(job, pages.infos)
            self._prepare_for(ending, *pages.infos)
            run = partial(
                executor.process,
                setup=self._setup,
                pool=self._pool,
                data_range=data_range,
                ending=ending,
            )
            stack.enter_context(checking(ending.check))
            upscale(job, pages, partial(plan_for, self._setup), run, progress)
        return pages.infos, warnings

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
        arguments.paths(source=source, target=target)
        arguments.integers(page=given.get("page"), max_pixels=given.get("max_pixels"), optional=True)
        arguments.flags(overwrite=given.get("overwrite", False), resume=given.get("resume", False))
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
        source: str | Path | OpenImage | Any,
        *,
        region: tuple[slice, slice] | None = None,
        page: int = 1,
        max_pixels: int | None = None,
        layout: ArrayLayout | None = None,
        bands: bool = False,
        alpha: bool | None = None,
        nodata: Nodata = None,
        classes: bool = False,
        data_range: Range | None = None,
        cancel: Event | None = None,
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
        """Upscale an image and yield its parts as they are finished, in bounded memory.

        The source is opened at once, and closed with the iterator: after the last part, by its method
        ``close``, or when nothing refers to it any more. Work that is under way then ends within a fraction
        of a second.

        Parameters
        ----------
        source : str, Path, OpenImage or array_like
            An image file, one that `open_image` opened, or an array as for `upscale` or `upscale_into`.
        region : (slice, slice), optional
            Rows and columns of the source, without steps. Only this part is read and upscaled, with the
            margin around it. It equals the same part of the whole result bit for bit, as far as the runtime
            computes a pixel alike in windows of different sizes: the native backend always does.
        page : int
            Of a TIFF or Zarr, from 1.
        max_pixels, bands, nodata, classes, data_range
            As in `upscale_file`.
        layout, alpha
            As in `upscale`, for arrays only, of one image. A file says itself whether it has alpha.
        cancel : threading.Event, optional
            As in `upscale`.

        Yields
        ------
        window : (slice, slice)
            Rows and columns of the part in the result, or in the upscaled region.
        part : ndarray, shape (h, w, C)
            Of the source's type, and a masked array if the source has a mask: ``out[window] = part``. Parts
            come row by row, left to right, and cover the result once. The next ones are computed while the
            caller works on one.

        Raises
        ------
        SourceMissingError, ImageError, ArgumentError
            At the call, if the source cannot be opened or an argument breaks its rule.
        CancelledError, ClosedError
            If `cancel` was set, or the engine was closed.
        """
        options = {"layout": layout, "bands": bands, "alpha": alpha, "nodata": nodata, "classes": classes}
        opening = {"page": page, "max_pixels": max_pixels, **options}
        parts = self._parts(source, region, opening, data_range, cancel)
        next(parts)  # opens the source
        return parts

    def _parts(
        self,
        source: Any,
        region: tuple[slice, slice] | None,
        opening: dict[str, Any],
        data_range: Range | None,
        cancel: Event | None,
    ) -> Iterator[Any]:
        """Open a source, which is the first step, and yield its parts in the following ones."""
        with (
            self._active.runs.begin(cancel) as ending,
            source_of(source, look=region is None, **opening) as opened,
        ):
            check_layout(self._spec, opened.info.layout)
            part = streaming.region_of(region, opened.info.shape)
            values = self._range(data_range)
            yield None
            self._prepare_for(ending, replace(opened.info, shape=part.shape))
            info = replace(opened.info.scaled(self.scale), shape=part.scaled_shape(self.scale))
            yield from streaming.parts(
                info,
                lambda sink: executor.steps(
                    opened, sink, self._setup, self._pool,
                    region=part if region else None, data_range=values, ending=ending,
                ),
            )  # fmt: skip

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
        arguments.callables(progress=progress, optional=True)
        with self._active.runs.begin() as ending, self._active.tuning:
            return self._tune(progress, ending)

    def _tune(self, progress: Callable[[Trial], None] | None, ending: Ending) -> list[Trial]:
        running = self._active
        running.setup, choice, trials = autotune.tune(
            self._loader, running.setup, running.pool, progress, ending
        )
        self._spec, self._tile, self._untuned = running.setup.model, running.setup.tile, False
        tuning_cache.remember(self._key, choice)
        return trials

    def _range(self, asked: Range | None) -> DataRange:
        return self._data_range if asked is None else DataRange.of(asked)

    def _identity(self, data_range: Range | None) -> dict[str, Any]:
        """Return what a result depends on beside its source, as a journal stores it."""
        return {
            "version": __version__,
            "model": f"{self._spec.name} {self.model_hash}",
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
        region: Region | None = None,
        cancel: Event | None = None,
    ) -> None:
        """Upscale a source that is not a file job."""
        arguments.callables(progress=progress, optional=True)
        with self._active.runs.begin(cancel) as ending:
            shape = source.info.shape if region is None else region.shape
            self._prepare_for(ending, replace(source.info, shape=shape))
            executor.process(
                source, sink, self._setup, self._pool, progress,
                region=region, data_range=self._range(data_range), ending=ending,
            )  # fmt: skip

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine is closed")

    def _prepare_for(self, ending: Ending, *infos: ImageInfo) -> None:
        """Tune before the first large image. Categories need no model."""
        pixels = sum(i.shape[0] * i.shape[1] for i in infos if i.layout.color != "classes")
        if self._untuned and pixels * self.scale**2 >= TUNE_FROM:
            with ending.holding(self._active.tuning):
                if self._untuned:  # another thread may have tuned meanwhile
                    self._tune(None, ending)


@overload
def upscale(image: Image, model: str | Path | bytes = ..., **options: Unpack[EngineArguments]) -> Image: ...
@overload
def upscale(
    image: Exported, model: str | Path | bytes = ..., **options: Unpack[EngineArguments]
) -> Exported: ...
def upscale(
    image: Any, model: str | Path | bytes = "srcnn-915-x2", **options: Unpack[EngineArguments]
) -> Any:
    """Upscale one array or image of Pillow; `options` are those of `Engine`.

    For several images, create one `Engine` and reuse it.
    """
    with Engine(model, **options) as engine:
        return engine.upscale(image)
