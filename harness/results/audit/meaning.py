"""What each flag says, with the threshold that raises it."""

from __future__ import annotations

from harness.results.audit import thresholds as t

MEANING = {
    "as_published": "the attack is reproduced with the defects of its publication; compare it with that table only",
    "attack_fallback": "the attack gave images that the threat model does not allow, as it does where it fails",
    "batch_dependent": f"the images beside an image move its logits by more than {100 * t.BATCH_DEPENDENCE:g} % of "
    "their gap: it was judged and attacked one image at a time, and elsewhere answers something else",
    "blackbox_wins": "an attack without gradients breaks what no attack with gradients breaks "
    f"(more than {t.STRONGER:g} points): they mislead",
    "co_detected": f"FGSM leaves more than {t.OVERFITTING_GAP:g} points more standing than PGD-20: catastrophic "
    "overfitting, its robustness is to one step only",
    "co_missing": "the network under this defense should have overfitted catastrophically and did not "
    f"(gap of at most {t.OVERFITTING_GAP:g} points): this is not the published setting",
    "dynamic": "the network asks for gradients while it predicts; attacks may not see through that",
    "eps_floor": f"more than {t.FLOOR:g} point above chance stands where the budget covers every image, or a larger "
    f"budget leaves more than {t.RISE:g} points more: the attacks fail, not the perturbation",
    "false_claims": "the attack reported broken images that the harness judges correct",
    "limited": "fewer images than the split has: ranked only where a board says so",
    "losses_disagree": f"the same attack with another loss is more than {t.LOSS_GAP:g} points away: one of the "
    "gradients is masked",
    "no_adaptive": "its prediction hides a choice from gradients, and no attack that knows of it was run",
    "not_monotone_steps": f"more steps of the same attack leave more than {t.RISE:g} points more standing at its last "
    "iterate",
    "out_of_range": "images outside [0, 1], as the reproduced publication scored them",
    "prediction_gated": "a choice in its prediction hides part of the gradient: who knows nothing of it proves little",
    "probability_outputs": "the model answers probabilities or their logarithms, on which margin losses go flat",
    "restarts_matter": f"more restarts take more than {t.RESTARTS_GAIN:g} point: one start is no evaluation of it",
    "robust_ge_clean": f"accuracy under attack is above clean accuracy by more than {t.CLEAN_SLACK:g} points",
    "single_step_wins": f"a one-step attack is more than {t.SINGLE_STEP_SLACK:g} points better than every iterated "
    "one that can cross the ball",
    "static_set": "images that were not made against what is deployed: by an attacker of the bare network, or of "
    "another; an upper bound only",
    "steps_matter": f"more than {t.MANY_STEPS} steps take more than {t.STEPS_GAIN:g} point: fewer have not converged",
    "stochastic": "two passes over the same images give different logits",
    "train_labels_at_test": "its forward takes labels: at test time there are none to give",
    "transfer_wins": "an attack crafted on another network, or on the bare one, breaks what no attack on the deployed "
    f"one breaks (more than {t.STRONGER:g} points): gradients mislead",
    "unbounded_attack": "no budget binds the attack: its distance is the result, not the accuracy",
    "under_reach": "steps times step is smaller than eps: the ball cannot be crossed",
    "weak_protocol": "attacks that this defense is known to need were not run",
    "zero_gradients": f"more than {100 * t.ZERO_GRADIENT_CE:g} % of images have no gradient under cross-entropy, or "
    "any have none under the margin: attacks that follow it are blind there; use square, rays or spsa",
}
