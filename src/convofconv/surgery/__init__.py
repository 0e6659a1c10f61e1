"""Changing models: which convs are converted, how a converted conv behaves, and folding it back.

The way of a weight, from the conv to the converted conv, through a forward, and back to a conv:

1. ``surgery/conversion.py``: :func:`~convofconv.convert` asks ``surgery/selection.py`` and ``surgery/obstacles.py``
   which convs to take, and builds their maps, which are in ``maps/``, before it touches any conv.
2. ``surgery/registration.py``: torch's parametrize keeps the conv's parameter, the *basic kernels*, as
   ``parametrizations.weight.original``, and makes ``conv.weight`` a property.
3. ``surgery/converted_conv.py``: that property, and all else that would be a trap, gets an answer of ours, in a class
   that the converted convs of one class share (see ``torch_private.py``).
4. ``runtime/kernel_cache.py``: hooks of the model open a frame when its forward begins. A conv's own forward reads
   ``self.weight``; the property asks the frame, which computes a kernel at its first use and gives the same tensor at
   every other one.
5. ``maps/spatial_association.py``: each map takes the weight and gives a weight, those of layers that are alike in one
   batch (``runtime/batched.py``). The association lays the kernels out as grids, convolves them with the super kernels
   and cuts them apart (``functional/association.py``), by a matrix where that is cheaper
   (``functional/super_matrix.py``). Autograd brings the gradients back the same way.
6. ``surgery/folding.py``: :func:`~convofconv.reparameterize` computes every weight once, in float32 at least, writes it
   into the basic kernels' parameter and gives the conv its class back.
"""
