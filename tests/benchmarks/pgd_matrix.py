"""How much the shared trajectory saves: {PGD} x {10, 20, 40, 100} by the harness against torchattacks, one process.

Run: python tests/benchmarks/pgd_matrix.py. Prints the ratio of medians over five interleaved pairs. The peer only
attacks; the harness also judges every image of all four cells.
"""

import statistics
import time
import warnings

import torch

from harness.data.dataset import LoadedDataset
from harness.data.shard import Shard
from harness.evaluation.evaluate import AttackRun, evaluate
from harness.evaluation.judge import Judge
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry.discovery import discover
from harness.types import Architecture, Attack

STEPS = (10, 20, 40, 100)


def main() -> None:
    warnings.simplefilter("ignore")
    import torchattacks

    registry = discover()
    planned = plan(Request(defenses=["raw"], attacks=[f"pgd-{s}" for s in STEPS]), registry)
    (cells,) = planned.groups
    data = LoadedDataset(planned.dataset, planned.dataset_name, None)
    examples = data.order()[:250]
    x, y = data.part("test").batch(examples, torch.device("cpu"))
    torch.manual_seed(0)
    model = registry.get(Architecture, "digits_net").spec.build(data.shape, 10, width=16).eval()
    shard = Shard(start=0, stop=250, examples=tuple(map(int, examples)), x=x, y=y, data_sha256=data.part("test").sha256)
    attack = registry.get(Attack, "pgd-10").spec
    kind = planned.kinds["linf"].spec

    def ours() -> None:
        judge = Judge(model, 10, data.shape)
        evaluate(AttackRun(judge=judge, attack=attack, cells=cells, kind=kind, batch=250), shard)

    def theirs() -> None:
        for steps in STEPS:
            torchattacks.PGD(model, eps=0.2, alpha=0.02, steps=steps)(x, y)

    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    ours()
    theirs()
    for _ in range(5):
        for name, run in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["theirs"])
    print(f"harness / torchattacks = {ratio:.2f} (four PGD cells, 250 digits, medians of 5)")


if __name__ == "__main__":
    main()
