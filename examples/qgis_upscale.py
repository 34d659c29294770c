"""A processing algorithm for QGIS: upscale a raster layer to a GeoTIFF.

Install srcnn-rt into QGIS's Python (on Windows and macOS from the OSGeo4W shell or QGIS's own pip):

    python -m pip install "srcnn-rt[cpu]"

Then open Processing › Toolbox › Scripts › Add Script to Toolbox, and choose this file.
"""

from __future__ import annotations

import threading
from typing import Any

from srcnn_rt import Engine, SrcnnError

MODELS = ["srcnn-915-x2", "srcnn-915-x3", "srcnn-915-x4", "compact-m4c16-x2", "compact-m10c32-x4"]


def upscale(source: str, target: str, model: str, bands: bool, feedback: Any) -> None:
    """Upscale a raster, and tell `feedback` (a QgsProcessingFeedback) how far it is."""
    cancel = threading.Event()

    def progress(done: int, total: int) -> None:
        feedback.setProgress(100 * done / total)
        if feedback.isCanceled():
            cancel.set()

    with Engine(model) as engine:
        report = engine.upscale_file(
            source, target, bands=bands, overwrite=True, progress=progress, cancel=cancel
        )
    for line in report.warnings:
        feedback.pushWarning(line)
    feedback.pushInfo(f"{report.target_size[0]} x {report.target_size[1]} pixels in {report.seconds:.1f} s")


try:
    from qgis.core import (
        QgsProcessingAlgorithm,
        QgsProcessingException,
        QgsProcessingParameterBoolean,
        QgsProcessingParameterEnum,
        QgsProcessingParameterRasterDestination,
        QgsProcessingParameterRasterLayer,
    )
except ImportError:  # not in QGIS: only the function above is there
    pass
else:

    class Upscale(QgsProcessingAlgorithm):
        """What QGIS shows and runs."""

        def name(self) -> str:
            return "upscale"

        def displayName(self) -> str:  # noqa: N802 (QGIS's name)
            return "Upscale (srcnn-rt)"

        def group(self) -> str:
            return "Super-resolution"

        def groupId(self) -> str:  # noqa: N802
            return "superresolution"

        def createInstance(self) -> Upscale:  # noqa: N802
            return Upscale()

        def initAlgorithm(self, config: Any = None) -> None:  # noqa: N802
            self.addParameter(QgsProcessingParameterRasterLayer("INPUT", "Raster"))
            self.addParameter(QgsProcessingParameterEnum("MODEL", "Model", MODELS, defaultValue=0))
            self.addParameter(
                QgsProcessingParameterBoolean("BANDS", "Bands, not colours", defaultValue=False)
            )
            self.addParameter(QgsProcessingParameterRasterDestination("OUTPUT", "Upscaled"))

        def processAlgorithm(self, parameters: Any, context: Any, feedback: Any) -> dict[str, str]:  # noqa: N802
            layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
            target = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
            model = MODELS[self.parameterAsEnum(parameters, "MODEL", context)]
            bands = self.parameterAsBool(parameters, "BANDS", context)
            try:
                upscale(layer.source(), target, model, bands, feedback)
            except SrcnnError as error:
                raise QgsProcessingException(str(error)) from error
            return {"OUTPUT": target}
