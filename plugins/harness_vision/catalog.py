"""Describes each dataset: size, budgets, attack step and recipes. Loading is elsewhere.

The first recipe of a dataset is ours, as it is taken for every defense that has none of its own; those of AALP stand
where AALP was run.
"""

from dataclasses import replace
from fractions import Fraction

from harness.api import Dataset, InnerAttack, Recipe, lazy

AALP = "printed settings of AALP, arXiv:2005.11904, section 4.1; length, batch and augmentation are ours (none stated)"

DIGITS_QUICK = Recipe(
    name="quick", arch="digits_net", epochs=60, batch=64, lr=2e-3, schedule="cosine",
    inner=InnerAttack(steps=7, step=Fraction(1, 20)), source="ours: under a minute for each defense on two CPU cores",
)  # fmt: skip
DIGITS_WIDER = replace(
    DIGITS_QUICK, name="quick-0.3", inner=InnerAttack(steps=7, eps=Fraction(3, 10), step=Fraction(3, 40)),
    source="ours: `quick` at linf 0.3, the budget at which TPAP's base overfits on digits",
)  # fmt: skip
MNIST_CPU = Recipe(
    name="mnist-cpu", arch="lenet5", epochs=10, batch=128, lr=1e-3,
    inner=InnerAttack(steps=10, step=Fraction(3, 40), ramp_epochs=3), source="ours: minutes on two CPU cores",
)  # fmt: skip
MNIST_AALP = Recipe(
    name="aalp", arch="madry_mnist", epochs=100, batch=128, lr=1e-4,
    inner=InnerAttack(steps=40, eps=Fraction(3, 10), step=Fraction(1, 100)), source=AALP,
)  # fmt: skip
SVHN_AALP = Recipe(
    name="aalp", arch="resnet9", epochs=100, batch=128, lr=1e-4,
    inner=InnerAttack(steps=10, eps=Fraction(12, 255), step=Fraction(3, 255)),
    source=f"{AALP}; its ResNet9 read as DAWNBench's",
)  # fmt: skip
CIFAR10_AALP = Recipe(
    name="aalp", arch="resnet32", epochs=200, batch=128, lr=1e-5, augment="crop-flip",
    inner=InnerAttack(steps=7, eps=Fraction(8, 255), step=Fraction(2, 255)),
    source=f"{AALP}; its ResNet32 taken literally, though resnet32_wide is the likelier original",
)  # fmt: skip
CIFAR_MODERN = Recipe(
    name="modern", arch="resnet32", epochs=200, batch=128, lr=1e-3, schedule="cosine", augment="crop-flip",
    inner=InnerAttack(steps=7), source="ours: Adam 1e-3 with a cosine, as 1e-5 from scratch hardly learns",
)  # fmt: skip

SVHN_MODERN = replace(
    CIFAR_MODERN, arch="resnet18", augment="none", source="ours: that of CIFAR-10 on ResNet-18; digits are not flipped"
)
TINY_MODERN = replace(
    CIFAR_MODERN, arch="preact_resnet18", source="ours: that of CIFAR-10 on a network for images of 64x64"
)
CALTECH_MODERN = Recipe(
    name="modern", arch="resnet18", epochs=200, batch=128, lr=1e-3, schedule="cosine", augment="crop-flip",
    inner=InnerAttack(steps=7), source="ours: that of CIFAR-10; no paper states one",
)  # fmt: skip
CALTECH_LARGE = replace(
    CALTECH_MODERN, batch=32, source="ours: that of CIFAR-10, in batches of 32, the smallest that TPAP's slides name"
)

CIFAR_BUDGETS = {
    "linf": Fraction(8, 255), "l2": Fraction(1, 2), "wasserstein": Fraction(1, 200), "flow": Fraction(4, 5),
}  # fmt: skip
SVHN_BUDGETS = {**CIFAR_BUDGETS, "linf": Fraction(12, 255), "flow": Fraction(1, 2)}
MNIST_BUDGETS = {
    "linf": Fraction(3, 10), "l2": Fraction(2), "wasserstein": Fraction(1, 2), "flow": Fraction(1, 2),
}  # fmt: skip

DATASETS = (
    Dataset(
        name="digits", load=lazy("harness_vision.datasets:digits"), classes=10, shape=(1, 8, 8),
        budgets={"linf": Fraction(1, 5), "l2": Fraction(1), "wasserstein": Fraction(1, 4), "flow": Fraction(1, 2)},
        step=Fraction(1, 10), recipes=(DIGITS_QUICK, DIGITS_WIDER),
        summary="scikit-learn's 1,797 handwritten digits, 8x8, bundled: no download; 1,097 / 200 / 500",
    ),
    Dataset(
        name="mnist", load=lazy("harness_vision.datasets:mnist"), classes=10, shape=(1, 28, 28), budgets=MNIST_BUDGETS,
        step=Fraction(1, 30), recipes=(MNIST_CPU, MNIST_AALP), summary="MNIST; 1,000 training images validate",
    ),
    Dataset(
        name="fashion-mnist", load=lazy("harness_vision.datasets:fashion_mnist"), classes=10, shape=(1, 28, 28),
        budgets={**MNIST_BUDGETS, "linf": Fraction(1, 10)}, step=Fraction(1, 30), recipes=(MNIST_CPU,),
        summary="Fashion-MNIST; budgets ours",
    ),
    Dataset(
        name="svhn", load=lazy("harness_vision.datasets:svhn"), classes=10, shape=(3, 32, 32),
        budgets=SVHN_BUDGETS,
        recipes=(SVHN_MODERN, SVHN_AALP), summary="Street View House Numbers, train and test only",
    ),
    Dataset(
        name="cifar10", load=lazy("harness_vision.datasets:cifar10"), classes=10, shape=(3, 32, 32),
        budgets=CIFAR_BUDGETS, recipes=(CIFAR_MODERN, CIFAR10_AALP), summary="CIFAR-10",
    ),
    Dataset(
        name="cifar100", load=lazy("harness_vision.datasets:cifar100"), classes=100, shape=(3, 32, 32),
        budgets=CIFAR_BUDGETS, recipes=(CIFAR_MODERN,), summary="CIFAR-100",
    ),
    Dataset(
        name="tiny-imagenet", load=lazy("harness_vision.tiny_imagenet:tiny_imagenet"), classes=200, shape=(3, 64, 64),
        budgets=CIFAR_BUDGETS, recipes=(TINY_MODERN,),
        summary="Tiny-ImageNet, 200 classes; its official validation images are the test images; not downloaded",
    ),
    Dataset(
        name="caltech101", load=lazy("harness_vision.caltech101:caltech101"), classes=101, shape=(3, 64, 64),
        budgets=CIFAR_BUDGETS, recipes=(CALTECH_MODERN,),
        summary="Caltech-101 without background, scaled to 64x64; split and budgets ours; not downloaded",
    ),
    Dataset(
        name="caltech101-300x200", load=lazy("harness_vision.caltech101:caltech101_large"), classes=101,
        shape=(3, 200, 300), budgets=CIFAR_BUDGETS, recipes=(CALTECH_LARGE,),
        summary="Caltech-101 without background, 300 wide and 200 high, as in TPAP; split and budgets ours",
    ),
    Dataset(
        name="folder", load=lazy("harness_vision.folder:folder"), classes=None, shape=None, budgets=CIFAR_BUDGETS,
        located=True, everything=True, recipes=(CIFAR_MODERN,),
        summary="folder:PATH, a folder of class folders (or of train/ and test/ with them), or a zip of one",
    ),
)  # fmt: skip
