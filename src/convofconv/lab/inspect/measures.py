"""Names of what is measured inside of the networks of studies."""

from __future__ import annotations

from collections.abc import Mapping

#: The numbers, and what each is; in per cent where it is not said otherwise. Kernel measures have ``NAME_z`` besides,
#: the mean z, and ``NAME_observed``, the mean of the measure itself, from which nothing is subtracted.
MEASURES: Mapping[str, str] = {
    "similarity": "cosine of kernels with the best sign and shift, within − between groups, beyond permuted kernels",
    "support_overlap": "overlap of energies per tap, within − between groups, beyond permuted kernels",
    "spectrum_overlap": "overlap of power spectra, within − between groups, beyond permuted kernels",
    "energy": "correlation of a group's energy with its super kernel, beyond permuted kernels",
    "field": "side of the effective receptive field, in pixels",
    "large_objects": "energy of the activation map on objects larger than the field, beyond their share of the image",
    "small_objects": "energy of the activation map on smaller objects, beyond their share of the image",
}
