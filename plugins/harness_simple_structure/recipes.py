"""How it is trained: dataset -> recipes. The clean network is trained by the same recipe."""

from harness.api import InnerAttack, Recipe

RECIPES = {
    "cifar10": (
        Recipe(
            name="paper", arch="resnet34", epochs=150, batch=64, lr=0.01, optimizer="sgd", momentum=0.9,
            weight_decay=5e-4, augment="crop-flip", inner=InnerAttack(steps=7),
            source="the code of Simple Structure, arXiv:2204.11596, whose RandomResizedCrop(32, scale 0.45 to 1) is "
            "replaced by crop-flip and whose best epoch on its mixture by the last one; the inner attack only watches",
        ),
    ),
}  # fmt: skip
