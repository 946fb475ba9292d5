"""The recipes of Simple Structure, by dataset, the default first.

The clean network is trained by the same recipe.
"""

from fractions import Fraction

from harness.api import InnerAttack, Recipe

WATCHED = "the inner attack only watches"

RECIPES = {
    "digits": (
        Recipe(
            name="quick", arch="digits_net", epochs=20, batch=64, lr=2e-3, schedule="cosine",
            inner=InnerAttack(steps=7, step=Fraction(1, 20)),
            source=f"ours: a third of the epochs of other defenses, as attention takes most of the time; {WATCHED}",
        ),
    ),
    "cifar10": (
        Recipe(
            name="simple-structure", arch="resnet34", epochs=150, batch=64, lr=0.01, optimizer="sgd", momentum=0.9,
            weight_decay=5e-4, augment="resized-crop-flip", inner=InnerAttack(steps=7),
            source="dowdyboy/simple_structure_for_robust_model, aisafe_glaring/aisafe_train_fuse_model.py, lines 38 to "
            f"54 and 84; the last epoch for the one that is best on its mixture; {WATCHED}",
        ),
    ),
}  # fmt: skip
