"""Zarr arrays and OME-Zarr images in folders of chunks."""
