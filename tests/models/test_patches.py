"""A discriminator of patches, and the distance in its features."""

import pytest
import torch

from models.patches import PatchDiscriminator, feature_matching


@pytest.mark.parametrize(("layers", "patch"), [(1, 12), (2, 26), (3, 54)])
def test_a_logit_sees_a_patch_and_no_more(layers, patch):
    judge = PatchDiscriminator(2, 16, layers)
    for module in judge.modules():
        if isinstance(module, torch.nn.GroupNorm):  # it sees the whole image, faintly
            module.forward = lambda h: h
    x = torch.zeros(1, 1, 96, 96, requires_grad=True)
    logits, _ = judge(torch.zeros(1, 1, 96, 96), x)
    side = int(logits.shape[1] ** 0.5)
    logits.view(side, side)[side // 2, side // 2].backward()
    seen = x.grad[0, 0].abs().sum(0).nonzero()[:, 0]
    assert int(seen.max() - seen.min()) + 1 == patch


def test_features_are_matched_layer_by_layer():
    layers = [torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 2, 2)]
    assert float(feature_matching([h + 1 for h in layers], layers)) == 1
    assert float(feature_matching([layers[0] + 3, layers[1] - 1], layers)) == 2
