"""How the kernels of a forward are computed: once for all uses, those of layers that are alike in a batch."""
