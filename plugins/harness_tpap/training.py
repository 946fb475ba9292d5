"""The base that is purified: a network trained on FGSM examples, with the loss of another defense."""

LOSSES = {
    "fgsm_at": "fgsm_at[statistics=both]",
    "trades": "trades[beta=6,inner=fgsm]",
    "mart": "mart[beta=6,inner=fgsm]",
    "mart_published": "mart[beta=6,inner=fgsm,variant=tpap]",
}
"""`fgsm_at`: batch norm also sees the clean images, which TPAP's code passes for its log. `mart_published`: with the
mask of that code, which drops the divergence of most rows by accident."""


def step(model, x, y, ctx, *, base):
    return ctx.loss_of(LOSSES[base])(model, x, y, ctx)
