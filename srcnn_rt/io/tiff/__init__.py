"""TIFF: read by GDAL window by window, written tile by tile."""
