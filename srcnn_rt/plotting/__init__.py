"""Figures of filters and training runs."""
