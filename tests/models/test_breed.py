"""Breeding: whose genes a child has, by what it is selected, and that nothing of it is lost."""

import pytest
import torch

from models.classifiers import Judge
from models.families import Batch, Spec, breed, load
from models.families.breed import Config, between, child
from models.noise import SampleNoise
from tasks.errors import UserError
from tasks.reading import parse

SEEDS = list(range(6))


def pictures(count=6, channels=1, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, channels, 2, 2, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(small, (size, size), mode="bilinear")


def make(classes=3, **options):
    """A family that has learned for some steps, so that its encoder tells images apart."""
    torch.manual_seed(0)
    family = breed.build(Config(**options), Spec(1, 8, 8, classes))
    batch = Batch(pictures(32), torch.arange(32) % classes if classes else None)
    for _ in range(20):
        family.step(batch, 0.3)
    return family.eval()


def parents(one=0, other=1, classes=3):
    y_B = torch.arange(6) % classes if classes else None
    return y_B, [Batch(pictures(seed=seed), y_B) for seed in (one, other)]


@pytest.mark.parametrize("crossover", [0.0, 1.0])
def test_without_mutation_the_child_of_one_parent_is_what_the_vae_rebuilds_of_it(crossover):
    family = make(mutation=0.0, crossover=crossover, generations=3)
    y_B, sources = parents(0, 0)
    rebuilt = family.parent.interpolate(sources[0], sources[0], [0.0])[0]
    assert torch.equal(family.sample(y_B, SEEDS, sources)[0], rebuilt)
    assert len({tuple(x.flatten().tolist()) for x in rebuilt}) == len(rebuilt)
    mutated = make(mutation=0.5, crossover=crossover)
    assert not torch.equal(mutated.sample(y_B, SEEDS, sources)[0], rebuilt)


@pytest.mark.parametrize("name", ["vae", "gan", "diffusion"])
def test_seed_and_sources_give_the_genes_again(name):
    family = make(family=name, steps=6, options={"width": 16})
    y_B, sources = parents()
    x_BCHW, _ = family.sample(y_B, SEEDS, sources)
    with torch.no_grad():
        shown = family.tongue.express(family.genes(y_B, SEEDS, sources), y_B)
    again = (shown * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    assert (again.int() - x_BCHW.int()).abs().max() <= 1
    other = family.genes(y_B, [s + 100 for s in SEEDS], sources)
    assert not torch.equal(family.genes(y_B, SEEDS, sources), other)


def test_each_crossed_gene_comes_from_one_parent_or_the_other():
    config = Config(mutation=0.0, crossover=1.0)
    one, other = torch.randn(6, 40), torch.randn(6, 40)
    z = child(one, other, SampleNoise(SEEDS), config)
    from_one = z == one
    assert (from_one | (z == other)).all()
    assert (from_one.any(1) & ~from_one.all(1)).all()
    planes = child(torch.zeros(6, 3, 16, 16), torch.ones(6, 3, 16, 16), SampleNoise(SEEDS), config)
    pieces = planes.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert torch.equal(pieces.amin(4), pieces.amax(4))
    assert 0.3 < planes.mean() < 0.7


def test_genes_between_two_parents_are_as_long_as_theirs():
    one, other, weight = torch.randn(6, 64), torch.randn(6, 64), torch.linspace(0, 1, 6)
    z = between(one, other, weight)
    assert torch.allclose(z[0], one[0])
    assert torch.allclose(z[5], other[5])
    assert torch.allclose(z.norm(dim=1), torch.lerp(one.norm(dim=1), other.norm(dim=1), weight), rtol=1e-4)


def test_mutation_keeps_genes_standard_normal():
    one, other = torch.randn(6, 4000), torch.randn(6, 4000)
    for mutation in (0.3, 1.0):
        z = child(one, other, SampleNoise(SEEDS), Config(mutation=mutation))
        assert torch.allclose(z.std(1), torch.ones(6), atol=0.06)
    assert not torch.allclose(z, child(one, other, SampleNoise([s + 9 for s in SEEDS]), Config(mutation=1.0)))


def test_each_generation_comes_nearer_to_what_is_selected():
    y_B, sources = parents()
    light = {}
    for generations in (1, 6):
        family = make(generations=generations, brood=6, mutation=0.5)
        family.select = lambda x, y: x.mean((1, 2, 3))
        light[generations] = family.sample(y_B, SEEDS, sources)[0].float().mean()
        family.select = lambda x, y: -x.mean((1, 2, 3))
        light[-generations] = family.sample(y_B, SEEDS, sources)[0].float().mean()
    assert light[-6] < light[-1] < light[1] < light[6]


def test_the_judge_s_word_decides_once_there_is_one():
    family, (y_B, sources) = make(), parents()
    x_BCHW, own = family.sample(y_B, SEEDS, sources)
    assert torch.allclose(own, family.parent.bound(Batch(x_BCHW / 127.5 - 1, y_B)), rtol=1e-4)
    torch.manual_seed(5)
    judge = Judge(1, 8, 3).eval()
    with torch.no_grad():
        judge.head.weight *= 30
    family.heed(judge)
    y_B, sources = parents()
    x_BCHW, score = family.sample(y_B, SEEDS, sources)
    with torch.no_grad():
        said = judge(x_BCHW / 127.5 - 1)[0].log_softmax(1)[torch.arange(6), y_B]
    assert torch.allclose(score, said, atol=1e-4)
    resumed = make()
    resumed.load_state_dict(family.state_dict())
    assert torch.equal(resumed.sample(y_B, SEEDS, sources)[0], x_BCHW)


def test_it_learns_as_its_parent_family_does_alone():
    spec, batch = Spec(1, 8, 8, 3), Batch(pictures(32), torch.arange(32) % 3)
    torch.manual_seed(0)
    alone = load("gan").build(load("gan").Config(lr=2e-3, width=16), spec)
    torch.manual_seed(0)
    within = breed.build(Config(family="gan", options={"width": 16}, lr=2e-3), spec)
    for family in (alone, within):
        torch.manual_seed(1)
        family.step(batch, 0.5)
    assert all(torch.equal(v, within.state_dict()[k]) for k, v in alone.state_dict().items())
    assert within.config.lr == 2e-3
    assert within.BATCH == alone.BATCH


@pytest.mark.parametrize(("block", "message"), [
    ({"options": {"widht": 16}}, r"families\.breed\.options: widht of vae: .*its keys: beta, .*width"),
    ({"family": "gan", "options": {"width": 1}}, r"options: width of gan: Input should be greater"),
    ({"family": "restore"}, r"families\.breed\.family: found 'restore'"),
])  # fmt: skip
def test_what_the_parent_family_does_not_know_is_refused_by_name(block, message):
    with pytest.raises(UserError, match=message):
        parse(Config, block, "params.yaml", "families.breed.")
