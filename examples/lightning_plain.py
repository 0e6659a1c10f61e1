"""A LightningModule; lightning_converted.py is the same with kernels that collaborate."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from stripes import stripes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(32, 8)),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


torch.manual_seed(0)
module = Classifier()
trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(module, DataLoader(TensorDataset(*stripes(1024, seed=0)), batch_size=64, shuffle=True))

network = module.network.eval()
images, labels = stripes(512, seed=1)
with torch.no_grad():
    accuracy = (network(images).argmax(1) == labels).float().mean().item()
print(f"accuracy: {100 * accuracy:.1f} %")
torch.save(network.state_dict(), "model.pt")
