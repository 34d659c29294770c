"""TIFF, BigTIFF, GeoTIFF and Cloud-Optimised GeoTIFF."""
