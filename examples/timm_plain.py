"""timm's network, optimizer, schedule and average; timm_converted.py is the same with kernels that collaborate."""

import timm
import torch
import torch.nn.functional as F
from stripes import stripes
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 3

torch.manual_seed(0)
model = timm.create_model("resnet18", num_classes=8, channels=(16, 32, 64, 64), stem_width=16)
optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=1e-4, momentum=0.9)
scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=EPOCHS)
ema = ModelEmaV3(model, decay=0.9)

for epoch in range(EPOCHS):
    model.train()
    for images, labels in DataLoader(TensorDataset(*stripes(1024, seed=0)), batch_size=64, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        ema.update(model)
    scheduler.step(epoch + 1)
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

model = ema.module.eval()
images, labels = stripes(512, seed=1)
with torch.no_grad():
    accuracy = (model(images).argmax(1) == labels).float().mean().item()
print(f"accuracy: {100 * accuracy:.1f} %")
torch.save(model.state_dict(), "model.pt")
