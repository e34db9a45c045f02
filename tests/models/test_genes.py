"""What is read out of a real image is what the family makes that image of."""

import torch

from models.families import Batch
from models.noise import SampleNoise
from tests.models.test_breed import SEEDS, make, parents


def test_a_gan_s_genes_are_those_of_the_image_that_comes_nearest():
    family = make(family="gan", mutation=0.0, options={"width": 8})
    with torch.no_grad():
        family.parent.network.conv_out.weight *= 0.3
    z_BZ = SampleNoise(SEEDS).normal((64,))
    y_B = torch.arange(6) % 3
    with torch.inference_mode():  # as it is asked by generate
        source = Batch(family.parent.network(z_BZ, y_B), y_B)
        bred = family.sample(y_B, SEEDS, [source, source])[0] / 127.5 - 1
        chance = family.parent.network(z_BZ.flip(0), y_B)
    away = (bred - source.x_BCHW).square().mean()
    assert away < (chance - source.x_BCHW).square().mean() / 4


def test_a_diffusion_s_genes_are_the_noise_that_its_equation_leads_back():
    options = {"width": 16}
    family = make(options=options, family="diffusion", mutation=0.0, steps=30, generations=1, brood=2)
    y_B, sources = parents(0, 0)
    with torch.inference_mode():
        bred = family.sample(y_B, SEEDS, sources)[0] / 127.5 - 1
        genes = family.genes(y_B, SEEDS, sources)
    assert (bred - sources[0].x_BCHW).square().mean().sqrt() < 0.05
    assert genes.shape == sources[0].x_BCHW.shape
    others = family.sample(y_B, SEEDS, [parents(1)[1][0]] * 2)[0] / 127.5 - 1
    assert (others - sources[0].x_BCHW).square().mean().sqrt() > 0.3
