"""Zarr and OME-Zarr: folders of chunks, with axes and pyramids."""
