"""Metadata that several formats share: EXIF, XMP, nodata tags."""
