"""Formats that are read and written in one piece: PNG, JPEG, WebP, AVIF, JPEG XL, BMP."""
