"""Metrics against cases worked by hand, schedules at their corners, and one step of every recipe."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

import convofconv as coc
from convofconv.errors import ConfigError
from convofconv.lab.data.loading import evaluation_loader
from convofconv.lab.data.sources import voc
from convofconv.lab.found_by_name import find_task
from convofconv.lab.metrics.classification_metrics import ClassificationMetrics
from convofconv.lab.metrics.segmentation_metrics import SegmentationMetrics
from convofconv.lab.models.network import build_network
from convofconv.lab.recipe.recipe_files import FOLDER, recipe_from
from convofconv.lab.recipe.schema import DataRecipe, Recipe, TrainingRecipe
from convofconv.lab.training.module import DivergedError, Training
from convofconv.lab.training.run_data import RunData
from convofconv.lab.training.schedule import check_schedule, schedule


def logits_for(prediction, classes):
    return torch.nn.functional.one_hot(torch.tensor(prediction), classes).movedim(-1, 1).float()


def test_top1_and_top5_by_hand():
    """Six classes; the right one is first, second, fifth and last of the guesses."""
    order = [[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [1, 2, 3, 4, 0, 5], [1, 2, 3, 4, 5, 0]]
    logits = torch.zeros(4, 6)
    for row, guesses in enumerate(order):
        logits[row, guesses] = torch.arange(6.0, 0.0, -1.0)
    metrics = ClassificationMetrics(6)
    metrics.update(logits[:1], torch.tensor([0]))  # batches of different sizes count by their images
    metrics.update(logits[1:], torch.tensor([0, 0, 0]))
    assert metrics.compute() == {"top1": 25.0, "top5": 75.0}


def test_mean_iou_by_hand():
    """Truth 0 0 1 1, predicted 0 1 1 1: IoU 1/2 and 2/3, accuracies 1/2 and 1, 3 of 4 pixels."""
    metrics = SegmentationMetrics(2)
    metrics.update(logits_for([[[0, 1], [1, 1]]], 2), torch.tensor([[[0, 0], [1, 1]]]))
    found = metrics.compute()
    assert found["mIoU"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=1e-4)
    assert found["mAcc"] == pytest.approx(75)
    assert found["aAcc"] == pytest.approx(75)


def test_void_is_not_counted():
    metrics = SegmentationMetrics(2)
    metrics.update(logits_for([[[0, 1], [1, 1]]], 2), torch.tensor([[[0, 255], [1, 255]]]))
    assert metrics.compute() == {"mIoU": 100.0, "mAcc": 100.0, "aAcc": 100.0}


def test_an_absent_class_is_left_out_of_the_means_unless_it_is_predicted():
    """Class 2 is nowhere: no IoU. Class 3 is in no mask but predicted once: IoU 0, no accuracy."""
    metrics = SegmentationMetrics(4)
    metrics.update(logits_for([[[0, 3], [1, 1]]], 4), torch.tensor([[[0, 0], [1, 1]]]))
    found = metrics.compute()
    assert found["mIoU"] == pytest.approx(100 * (1 / 2 + 1 + 0) / 3, abs=1e-4)
    assert found["mAcc"] == pytest.approx(100 * (1 / 2 + 1) / 2, abs=1e-4)
    first, second, third, fourth = metrics.by_class()["IoU"]
    assert (first, second, fourth) == (50, 100, 0)
    assert math.isnan(third)


@pytest.mark.parametrize("prediction", [[[0, 1]], [[2, 0]]], ids=["not predicted", "predicted"])
def test_a_mean_over_classes_in_no_mask_is_left_out(prediction):
    metrics = SegmentationMetrics(3, focus=[2])
    metrics.update(logits_for([prediction], 3), torch.tensor([[[0, 1]]]))
    assert list(metrics.compute()) == ["mIoU", "mAcc", "aAcc"]
    metrics.update(logits_for([[[2, 1]]], 3), torch.tensor([[[2, 1]]]))
    assert metrics.compute()["mIoU_focus"] == (100 if prediction == [[0, 1]] else 50)


def test_scores_do_not_depend_on_what_images_are_evaluated_together():
    """A network sees what an image is padded with, so that none may be."""
    torch.manual_seed(0)
    sizes = [(9, 14), (14, 9), (9, 14), (11, 11), (30, 12)]
    images = [(torch.randn(3, *size), torch.randint(0, 4, size)) for size in sizes]
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, padding=3), torch.nn.Conv2d(8, 4, 7, padding=3)).eval()
    recipe = Recipe(task="segmentation", data=DataRecipe("digit_scenes", classes=4))
    found = []
    for batch in (1, 2, 5):
        training = Training(recipe, network, ["a", "b", "c", "d"])
        with torch.no_grad():
            for number, batches in enumerate(evaluation_loader(images, batch, workers=0)):
                training.validation_step(batches, number)
        found.append(training.metrics.compute())
    assert found[0] == found[1] == found[2]
    assert 0 < found[0]["mIoU"] < 50


def test_nothing_but_void_is_refused():
    metrics = SegmentationMetrics(2, focus=[1])
    metrics.update(logits_for([[[0, 1]]], 2), torch.tensor([[[255, 255]]]))
    with pytest.raises(ConfigError, match="every pixel of the evaluated masks is void"):
        metrics.compute()


def test_metrics_start_anew():
    metrics = SegmentationMetrics(2)
    metrics.update(logits_for([[[1]]], 2), torch.tensor([[[0]]]))
    metrics.reset()
    metrics.update(logits_for([[[0]]], 2), torch.tensor([[[0]]]))
    assert metrics.compute()["aAcc"] == 100


SCHEDULES = [
    ("constant", {}, [1, 1, 1]),
    ("linear", {}, [1, 0.5, 0]),
    ("linear", {"min_lr": 0.02}, [1, 0.6, 0.2]),
    ("cosine", {}, [1, 0.5, 0]),
    ("poly", {"power": 0.9, "min_lr": 1e-4}, [1, 0.001 + 0.999 * 0.5**0.9, 0.001]),
    ("step", {"milestones": (2, 4)}, [1, 0.1, 0.01]),
]


@pytest.mark.parametrize(("name", "options", "expected"), SCHEDULES, ids=lambda value: str(value))
def test_schedules_at_start_middle_and_end(name, options, expected):
    factor = schedule(TrainingRecipe(epochs=5, lr=0.1, schedule=name, **options), steps_per_epoch=20)
    assert [factor(step) for step in (0, 50, 100)] == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "expected"), [("linear", [0.1, 0.55, 1]), ("constant", [0.1, 0.1, 1])])
def test_warm_up(kind, expected):
    recipe = TrainingRecipe(schedule="constant", warmup=kind, warmup_steps=10, warmup_start=0.1)
    assert [schedule(recipe, 100)(step) for step in (0, 5, 10)] == pytest.approx(expected)


def test_a_warm_up_may_be_given_in_epochs():
    for epochs, steps in ((2, 20), (0.25, 2), (0.01, 0)):  # 10 steps to an epoch; they take the place of the steps
        recipe = TrainingRecipe(schedule="constant", warmup_epochs=epochs, warmup_steps=7, warmup_start=0.1)
        factors = [schedule(recipe, 10)(step) for step in range(steps + 1)]
        assert factors == pytest.approx(
            [0.1 + 0.9 * step / max(1, steps) if step < steps else 1 for step in range(steps + 1)]
        )
    with pytest.raises(ConfigError, match=r"training\.warmup_epochs must be at least 0, got -1"):
        TrainingRecipe(warmup_epochs=-1)


UNREACHED = [
    # Of 15 epochs of 5 steps each.
    (
        {"warmup_steps": 200},
        r"warmup_steps is 200, but the run has 75 steps in all, 5 in each epoch: .*warmup_epochs=1\.5",
    ),
    ({"warmup_steps": 75}, "warmup_steps is 75, but the run has 75 steps in all"),
    (
        {"warmup_epochs": 15},
        r"warmup_epochs is 15, 75 steps, but the run has 75 .*warmup_epochs=0 --training\.warmup_steps=0",
    ),
    (
        {"schedule": "step", "milestones": (8, 15, 30)},
        r"milestones: the run ends after training\.epochs, 15, .* fall at 15, 30\. .*training\.milestones='\[10, 13\]'",
    ),
    (
        {"schedule": "step", "milestones": (1,), "epochs": 1},
        r"fall at 1\. Give for example --training\.schedule=constant",
    ),
    *(
        ({"schedule": name, "lr": 0.01, "min_lr": 0.1}, r"min_lr is 0\.1, more than training\.lr, 0\.01: .* rise")
        for name in ("poly", "linear", "cosine")
    ),
]


@pytest.mark.parametrize(("options", "message"), UNREACHED, ids=lambda value: str(value)[:40])
def test_what_a_schedule_would_never_reach_is_refused_with_what_would_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        check_schedule(TrainingRecipe(**{"epochs": 15, **options}), steps_per_epoch=5)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_steps": 74},
        {"warmup_epochs": 14.8},
        {"warmup_epochs": 1, "warmup_steps": 200},
        {"schedule": "step", "milestones": (8, 14)},
        {"schedule": "cosine", "milestones": (30,)},  # not of this schedule
        {"schedule": "cosine", "min_lr": 0.1},
        {"schedule": "constant", "min_lr": 0.2},
    ],
    ids=str,
)
def test_a_schedule_whose_parts_are_all_reached_is_taken(options):
    check_schedule(TrainingRecipe(epochs=15, lr=0.1, **options), steps_per_epoch=5)


def test_the_loss_is_the_mean_over_pixels_that_are_not_void():
    recipe = Recipe(task="segmentation", data=DataRecipe(name="digit_scenes", classes=3))
    training = Training(recipe, torch.nn.Identity(), ["a", "b", "c"])
    logits, target = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randint(3, (2, 4, 4))
    target[0, :2] = 255
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    assert torch.allclose(training.loss(logits, target), expected)
    nothing = training.loss(logits, torch.full_like(target, 255))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()


def test_pixels_count_the_same_in_all_processes(monkeypatch):
    """Two processes that average their gradients learn what one learns from both parts, however much of one is void."""
    recipe = Recipe(task="segmentation", data=DataRecipe(name="digit_scenes", classes=3))
    training = Training(recipe, torch.nn.Identity(), ["a", "b", "c"])
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    target[0, :3] = 255
    whole = training.loss(logits, target)
    of_both = (target != 255).sum()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.copy_(of_both))
    parts = [training.loss(logits[part], target[part]) for part in ([0], [1])]
    assert torch.allclose(sum(parts) / 2, whole)


def test_losses_that_a_gpu_still_computes_are_read_before_a_checkpoint():
    training = Training(Recipe(), torch.nn.Linear(2, 10), list("0123456789"))
    training.unread = [(0, 4, torch.tensor(2.0)), (1, 5, torch.tensor(3.0))]
    training.trainer, checkpoint = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), {}
    training.on_save_checkpoint(checkpoint)
    assert checkpoint["losses"] == (5.0, 2)
    training.unread = [(2, 6, torch.tensor(1.0)), (3, 7, torch.tensor(float("nan")))]
    with pytest.raises(DivergedError, match=r"the loss is nan at batch 4 of epoch 1 \(step 7\)"):
        training.on_save_checkpoint(checkpoint)


def test_nothing_that_goes_to_a_device_is_float64():
    """Apple's GPUs have none of it."""
    training = Training(Recipe(), torch.nn.Linear(2, 10), list("0123456789"))
    assert {value.dtype for value in training.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_what_detections_are_compared_with_stays_where_it_is_counted():
    """In float64, of which Apple's GPUs have none; and masks, which a GPU would only give back."""
    recipe = recipe_from("scenes-retinanet-resnet18", {"data.limit": 4})
    data = RunData(recipe, find_task(recipe.task).build_data(recipe.data, 0))
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = [torch.zeros(3, 4, 4)], [{"boxes": torch.zeros(1, 4, dtype=torch.float64), "image_id": 3}]
    ((images, targets),) = data.transfer_batch_to_device([batch], torch.device("meta"), 0)
    assert (images[0].device.type, targets[0]["boxes"].device.type) == ("meta", "cpu")
    data.trainer.training = True
    images, targets = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (images[0].device.type, targets[0]["boxes"].device.type) == ("meta", "meta")


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.yaml"))])
def test_every_recipe_builds_and_does_a_step(name, tmp_path):
    """At reduced size; weights of others are not fetched."""
    # Frozen norms belong to pretrained weights; a deep network of random ones explodes with them.
    own = {"method": "coc+stnd", "model.weights": "", "model.freeze_norm": False, "data.root": str(tmp_path)}
    recipe = recipe_from(name, own)
    classes = recipe.data.classes
    names = voc.CLASSES if classes == 21 else [f"class {number}" for number in range(classes)]
    training = Training(recipe, build_network(recipe, classes), names)
    images, target = torch.randn(2, 3, 64, 64), torch.randint(classes, (2,))
    if recipe.task == "segmentation":
        target = torch.randint(classes, (2, 64, 64))
    elif find_task(recipe.task).lists_objects:
        one = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 56.0]]), "labels": torch.tensor([classes - 1])}
        images, target = list(images), [{**one, "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}] * 2
    loss = training.loss(images, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in training.network.parameters())
    assert sum(p.grad.abs().sum() for p in training.network.parameters()) > 0


def test_the_moving_average_leaves_integers_whole():
    """An average of integers is cut off: it would change which kernels form a group."""
    network = coc.convert(torch.nn.Conv2d(3, 64, 3), config=coc.Config(grouping="random"))
    recipe = Recipe(training=TrainingRecipe(ema=0.9995))
    training = Training(recipe, network, ["a", "b"])
    order = coc.kernel_maps(network)[0].order.clone()
    before = network.bias.detach().clone()
    training.average.update_parameters(network)  # the first one copies
    with torch.no_grad():
        network.bias += 1
    for _ in range(3):
        training.average.update_parameters(network)
    averaged = training.evaluated
    assert torch.equal(coc.kernel_maps(averaged)[0].order, order)
    assert torch.allclose(averaged.bias, before + 1 - 0.9995**3, atol=1e-6)


@pytest.mark.parametrize("decay_norms", [True, False])
def test_super_kernels_learn_at_their_own_rate(decay_norms):
    network = coc.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)))
    recipe = Recipe(training=TrainingRecipe(lr=0.5, super_kernel_rate=4.0, weight_decay=0.25, decay_norms=decay_norms))
    training = Training(recipe, network, ["a", "b"])
    training.trainer = SimpleNamespace(datamodule=SimpleNamespace(steps_per_epoch=1))
    groups = training.configure_optimizers()["optimizer"].param_groups
    found = {group["name"]: (group["initial_lr"], group["weight_decay"]) for group in groups}
    norms = 0.25 if decay_norms else 0.0
    assert found == {"weights": (0.5, 0.25), "norms and biases": (0.5, norms), "super kernels": (2.0, 0.25)}
