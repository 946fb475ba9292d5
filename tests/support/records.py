"""Records made by hand, for tables and flags."""

from harness.storage.canonical import digest


def record_of(identity, outcome):
    """A record of anything, with the key that its identity has."""
    return {"key": digest(identity), "identity": identity, "outcome": outcome}


def record(attack="pgd-10", defense="aalp", threat="linf:1/5", span=(0, 4), clean="1111", raw="1010", last="0101",
           any_="0111", split_size=4, seed=0, params=None, mandatory=(), flags=None, **more):  # fmt: skip
    head = {
        "schema": 3, "kind": "cell", "judge": 1, "dataset": "digits", "data_sha256": "d" * 64, "split": "test",
        "split_size": split_size, "start": span[0], "stop": span[1], "defense": defense, "defense_params": {},
        "defense_revision": 1, "mandatory": list(mandatory), "arch": "net", "recipe": "quick", "train_seed": 0,
        "weights_sha256": defense[:1] * 64, "attack": attack, "attack_revision": 1, "params": params or {},
        "threat": threat, "deployed_sha256": defense[:1] * 64, "defense_origin": "d", "attack_origin": "a",
        "arch_origin": "n", "arch_revision": 1, "arch_params": {}, "knowledge": "static", "on": "", "passes": 1,
        "gated": False, "minimal": False,
        "seed": seed, "precision": "float32", "supplies": {}, "ranked": True, **more,
    }  # fmt: skip
    n = span[1] - span[0]
    outcome = {"n": n, "clean": clean, "raw": raw, "last": last, "any": any_, "forwards": 10 * n, "backwards": 10 * n}
    return record_of(head, {**outcome, "flags": flags or {}})
