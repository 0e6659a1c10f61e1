#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: merging a LoRA into a conv whose weight is parametrized by torch drops the adapter.
#
# Guess before: merge_and_unload() folds the adapter in, or raises, because `weight` is computed.
# Seen: it does neither. It adds the update to `conv.weight.data`, which is a temporary, without a warning; the merged
# network gives the outputs of the network without the adapter. A plain conv is merged right. The same for
# torch.nn.utils.parametrizations.weight_norm, spectral_norm and orthogonal.
#
# Output seen:
#   plain          adapter moves the output by 3.30, merged differs from adapted by 0.00
#   weight_norm    adapter moves the output by 3.30, merged differs from adapted by 3.30
#   spectral_norm  adapter moves the output by 5.70, merged differs from adapted by 5.70
#   orthogonal     adapter moves the output by 3.30, merged differs from adapted by 3.30
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 peft==0.21.2 numpy==2.3.5
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings
from collections import OrderedDict

import peft
import torch
from torch import nn

warnings.simplefilter("error")
for kind in ("plain", "weight_norm", "spectral_norm", "orthogonal"):
    torch.manual_seed(0)
    model, x = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3))), torch.randn(1, 3, 5, 5)
    if kind != "plain":
        getattr(nn.utils.parametrizations, kind)(model.stem)
    config = peft.LoraConfig(r=2, target_modules=["stem"], init_lora_weights=False)
    tuned = peft.get_peft_model(model.eval(), config).eval()
    with torch.no_grad():
        adapted = tuned(x)
        with tuned.disable_adapter():
            without = tuned(x)
        merged = tuned.merge_and_unload()(x)
    moved, apart = (float((a - adapted).abs().max()) for a in (without, merged))
    print(f"{kind:14} adapter moves the output by {moved:.2f}, merged differs from adapted by {apart:.2f}")
    assert moved > 1
    assert apart < 1e-5 if kind == "plain" else torch.equal(merged, without), "this has changed"
PYTHON
