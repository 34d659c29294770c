"""Analysis of filters, and figures of filters and training runs."""
