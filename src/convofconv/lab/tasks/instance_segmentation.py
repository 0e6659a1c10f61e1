"""Instance segmentation: a box, a class and a mask for every object in an image."""

from __future__ import annotations

from .detection import Detection


class InstanceSegmentation(Detection):
    """Mask R-CNN in place of RetinaNet, and COCO's AP of masks besides that of boxes."""

    target = "objects"
    keys = (*Detection.keys, "data.mask_resize")
    masks = True


TASK = InstanceSegmentation()
