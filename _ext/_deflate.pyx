# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Deflate without matches, without the GIL; see ``deflate.h``."""

from cpython.ref cimport Py_DECREF, PyObject
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *start, Py_ssize_t size) except NULL
    char *start_of "PyBytes_AsString"(PyObject *made) except NULL
    int shorten "_PyBytes_Resize"(PyObject **made, Py_ssize_t size) except -1

cdef extern from "deflate.h" nogil:
    ptrdiff_t srt_deflate_bound(ptrdiff_t size)
    ptrdiff_t srt_zlib(const uint8_t *data, ptrdiff_t size, uint8_t *out)


def zlib_encode(const uint8_t[::1] data not None):
    """Return a zlib stream (RFC 1950) of some bytes. The same bytes give the same stream, everywhere.

    Parameters
    ----------
    data : contiguous buffer of uint8

    Raises
    ------
    MemoryError
    """
    cdef ptrdiff_t size = data.shape[0], written
    cdef const uint8_t *start = &data[0] if size else NULL
    # Written where it stays, because a copy of a large tile costs as much as a sixth of the coding.
    cdef PyObject *made = new_bytes(NULL, srt_deflate_bound(size) + 8)
    cdef uint8_t *out = <uint8_t *>start_of(made)
    with nogil:
        written = srt_zlib(start, size, out)
    shorten(&made, written)
    found = <object>made
    Py_DECREF(found)  # of the two references, this function's own
    return found
