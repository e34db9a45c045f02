"""The deep belief net's machines against sums over all their states, and against autograd."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from models.families import Batch, Spec, dbn
from models.families.dbn import Config, Machine, build, statistics

KINDS = {"bernoulli": (0, None), "labelled": (3, None), "gaussian": (0, 0.4)}


@pytest.fixture(params=list(KINDS))
def machine(request):
    return small(*KINDS[request.param])


def small(labels, sigma, visible=4, hidden=3):
    torch.manual_seed(0)
    machine = Machine(visible, hidden, labels, sigma).double()
    for p in machine.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return machine.requires_grad_(False)


def bits(count):
    """Every state of `count` binary units."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count))).double()


def states(machine):
    """Every visible state, labels among them being one of K; some points of a Gaussian machine."""
    if machine.sigma is not None:
        return torch.randn(9, len(machine.b), generator=torch.Generator().manual_seed(1)).double()
    pixels = bits(len(machine.b) - machine.labels)
    if not machine.labels:
        return pixels
    labels = torch.eye(machine.labels).double()
    return torch.cat([torch.cat([p.expand(len(labels), -1), labels], 1) for p in pixels.split(1)])


def energy(machine, v, h):
    """E(v, h) as Hinton 2010 writes it, eq. 1 and 17."""
    if machine.sigma is None:
        return -(v @ machine.weight @ h) - v @ machine.b - h @ machine.c
    s = machine.sigma
    return ((v - machine.b) ** 2).sum() / (2 * s**2) - (v / s) @ machine.weight @ h - h @ machine.c


def table(machine):
    """Visible states (S, V), hidden states (T, H), and e^-E of every pair (S, T)."""
    v_SV, h_TH = states(machine), bits(len(machine.c))
    energies = [[float(energy(machine, v, h)) for h in h_TH] for v in v_SV]
    return v_SV, h_TH, (-torch.tensor(energies, dtype=torch.float64)).exp()


def test_free_energy_sums_the_hidden_units_out(machine):
    v_SV, _, weights_ST = table(machine)
    torch.testing.assert_close(machine.free_energy(v_SV), -weights_ST.sum(1).log())


def test_up_is_the_hidden_units_mean_in_the_joint(machine):
    v_SV, h_TH, weights_ST = table(machine)
    expected = weights_ST @ h_TH / weights_ST.sum(1, keepdim=True)
    torch.testing.assert_close(machine.up(v_SV), expected)


@pytest.mark.parametrize("kind", ["bernoulli", "labelled"])
def test_down_is_the_visible_units_mean_in_the_joint(kind):
    machine = small(*KINDS[kind])
    v_SV, h_TH, weights_ST = table(machine)
    expected = weights_ST.T @ v_SV / weights_ST.sum(0)[:, None]
    torch.testing.assert_close(machine.down(h_TH), expected)


def test_down_of_a_gaussian_machine_is_the_joints_mean_and_sigma_its_deviation():
    machine, s = small(*KINDS["gaussian"]), 0.4
    for h in bits(3):
        # ln p(v | h) is quadratic: it is flat at the mean, and curved by 1 / sigma^2 there.
        mean = machine.down(h[None])[0]
        slope = torch.autograd.functional.jacobian(lambda v, h=h: energy(machine, v, h), mean)
        torch.testing.assert_close(slope, torch.zeros(4).double(), atol=1e-9, rtol=0)
        curve = torch.autograd.functional.hessian(lambda v, h=h: energy(machine, v, h), mean)
        torch.testing.assert_close(curve, torch.eye(4).double() / s**2)
    torch.manual_seed(2)
    drawn = machine.draw_visible(h.expand(50_000, 3), torch.rand(50_000, 4).double())
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((4,), s).double(), atol=0.01, rtol=0)


def test_statistics_are_minus_the_free_energys_gradient(machine):
    v_SV = states(machine)
    machine.requires_grad_(True)
    machine.free_energy(v_SV).mean().backward()
    found = statistics(machine, v_SV)
    assert set(found) == {name for name, _ in machine.named_parameters()}
    for name, parameter in machine.named_parameters():
        torch.testing.assert_close(found[name].detach(), -parameter.grad)
        assert (parameter.grad.abs() > 1e-3).any()


def test_drawn_labels_are_one_of_all_in_their_frequencies():
    machine = small(*KINDS["labelled"])
    torch.manual_seed(3)
    h_H = torch.tensor([1.0, 0.0, 1.0]).double()
    drawn = machine.draw_visible(h_H.expand(40_000, 3), torch.rand(40_000, 7).double())
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn[:, -3:].sum(1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), machine.down(h_H[None])[0], atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["bernoulli", "labelled"])
def test_gibbs_steps_arrive_at_the_joint(kind):
    machine = small(*KINDS[kind])
    v_SV, _, weights_ST = table(machine)
    chance_S = weights_ST.sum(1) / weights_ST.sum()
    torch.manual_seed(4)
    v_BV = v_SV[:1].expand(20_000, -1)
    for _ in range(30):
        v_BV = machine.draw_visible(
            torch.bernoulli(machine.up(v_BV)), torch.rand(20_000, v_SV.shape[1]).double()
        )
    seen_S = (v_BV[:, None] == v_SV).all(2).double().mean(0)
    assert float(seen_S.sum()) == pytest.approx(1)
    torch.testing.assert_close(seen_S, chance_S, atol=0.015, rtol=0)


def make(channels=1, classes=3, seed=0, **config):
    torch.manual_seed(seed)
    given = {"hidden": (12, 10, 8), "chains": 6, "sample_gibbs": 4, **config}
    return build(Config(**given), Spec(channels, 8, 8, classes))


def pictures(channels=1, classes=3, count=9):
    torch.manual_seed(5)
    y_B = torch.arange(count) % classes if classes else None
    return Batch(torch.rand(count, channels, 8, 8) * 2 - 1, y_B)


def test_each_layer_is_trained_in_its_turn():
    family, batch = make(), pictures()
    for n, progress in enumerate((0.1, 0.5, 0.9)):
        before = {k: v.clone() for k, v in family.network.named_parameters()}
        metrics = [family.step(batch, progress) for _ in range(3)]
        assert [m["layer"] for m in metrics] == [n] * 3
        moved = {k for k, v in family.network.named_parameters() if not torch.equal(before[k], v)}
        assert moved == {f"machines.{n}.{name}" for name in ("weight", "b", "c")}
    assert family.step(batch, 1.0)["layer"] == 2


def test_each_layers_learning_rate_falls_from_its_height_to_zero():
    family, batch = make(hidden=(12, 10)), pictures()
    for progress, share in ((0.0, 1), (0.25, 0.5), (0.49, 0.02), (0.5, 1), (0.75, 0.5), (1.0, 0)):
        family.step(batch, progress)
        rate = family.optimisers["network"].param_groups[0]["lr"]
        assert rate / family.config.lr == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_goes_up_the_likelihood_that_the_chains_stand_for(channels):
    family, batch = make(channels, hidden=(12,), decay=0.1, classes=0), pictures(channels, classes=0)
    family.step(batch, 0.0)
    machine, seen = family.network[0], {}
    adam = family.optimisers["network"]
    adam.step = lambda: seen.update({k: p.grad.clone() for k, p in machine.named_parameters()})
    family.step(batch, 0.2)  # changes the chains, and no weight
    machine.zero_grad()
    data, belief = family.network.pixels(batch.x_BCHW), family.chain0_QV
    (machine.free_energy(data).mean() - machine.free_energy(belief).mean()).backward()
    for name, parameter in machine.named_parameters():
        decayed = parameter.grad + (0.1 * parameter.detach() if name == "weight" else 0)
        torch.testing.assert_close(seen[name], decayed, rtol=1e-3, atol=1e-5)


def test_the_top_machine_sees_labels_and_the_others_do_not():
    assert [family_machine.labels for family_machine in make().network.machines] == [0, 0, 3]
    assert [m.labels for m in make(classes=0).network.machines] == [0, 0, 0]
    # Gaussian units and a softmax group have no place in one machine.
    with pytest.raises(ValueError, match="give hidden two layers"):
        make(3, hidden=(12,))
    assert [m.labels for m in make(3, classes=0, hidden=(12,)).network.machines] == [0]
    assert [m.sigma for m in make(3).network.machines] == [0.25, None, None]
    family, batch = make(), pictures()
    top = family.network.rise(batch.x_BCHW, batch.y_B, 2)
    assert torch.equal(top[:, -3:], F.one_hot(batch.y_B, 3).float())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_machine_starts_with_the_means_of_what_it_sees(channels):
    family, batch = make(channels), pictures(channels)
    batch = Batch(batch.x_BCHW * 0.5 + 0.2, batch.y_B)
    machine = family.network[0]
    v_BV = family.network.pixels(batch.x_BCHW)
    with torch.no_grad():
        family.begin(0, v_BV, family.chain0_QV)
    told = machine.b if channels == 3 else machine.b.sigmoid()
    torch.testing.assert_close(told, v_BV.mean(0), rtol=1e-4, atol=1e-4)
    assert torch.equal(family.chain0_QV, v_BV[:6])
    assert family.started.tolist() == [1, 0, 0]
    b = machine.b.detach().clone()
    family.step(batch, 0.0)
    assert (machine.b - b).abs().max() <= family.config.lr * 1.01  # a step, and no second start


def test_persistent_chains_and_starts_survive_a_state():
    family, batch = make(), pictures()
    for progress in (0.0, 0.1, 0.4, 0.7):
        family.step(batch, progress)
    chains = [getattr(family, f"chain{n}_QV") for n in range(3)]
    assert all(len(c.unique(dim=0)) > 1 for c in chains)
    resumed = make(seed=1)
    resumed.load_state_dict({k: v.clone() for k, v in family.state_dict().items()})
    assert resumed.started.tolist() == [1, 1, 1]
    for n, chain in enumerate(chains):
        assert torch.equal(getattr(resumed, f"chain{n}_QV"), chain)
    resumed.optimisers["network"].load_state_dict(copy.deepcopy(family.optimisers["network"].state_dict()))
    for each in (family, resumed):
        torch.manual_seed(6)
        each.step(batch, 0.8)
    for name, value in family.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_chains_go_on_from_where_they_were():
    """Begun anew at each step they would stay near the data: these are moved by `gibbs` steps."""
    family, batch = make(hidden=(12,), lr=1e-12), pictures()
    family.step(batch, 0.0)
    started = []
    draw = Machine.draw_visible

    def drawn(self, h_BH, u_BV):
        started.append(family.chain0_QV.clone())
        return draw(self, h_BH, u_BV)

    before = family.chain0_QV.clone()
    try:
        Machine.draw_visible = drawn
        family.step(batch, 0.0)
    finally:
        Machine.draw_visible = draw
    assert len(started) == family.config.gibbs
    assert torch.equal(started[0], before)
    assert not torch.equal(family.chain0_QV, before)


@pytest.mark.parametrize("hidden", [(12,), (12, 10)])
def test_finish_keeps_the_mean_of_each_class_at_the_top(hidden):
    family, batch = make(hidden=hidden, classes=4), pictures(classes=3)
    family.step(batch, 0.0)
    halves = [Batch(batch.x_BCHW[a:b], batch.y_B[a:b]) for a, b in ((0, 5), (5, 9))]
    family.finish(halves)
    seen = family.network.pixels(batch.x_BCHW)
    with torch.no_grad():
        seen = family.network[0].up(seen) if len(hidden) == 2 else seen
    for label in range(3):
        torch.testing.assert_close(family.start_KV[label], seen[batch.y_B == label].mean(0))
    assert (family.start_KV[3] == 0.5).all()  # a class without images starts anywhere


def test_a_sample_holds_its_label_and_scores_minus_its_free_energy(monkeypatch):
    family, seen = make(hidden=(12,), classes=2), []
    with torch.no_grad():
        family.network[0].b[:32], family.network[0].b[32:64] = 9.0, -9.0
    free_energy = Machine.free_energy

    def spied(self, v_BV):
        seen.append(v_BV)
        return free_energy(self, v_BV)

    monkeypatch.setattr(Machine, "free_energy", spied)
    y_B = torch.arange(50) % 2
    x_BCHW, score_B = family.sample(y_B, list(range(50)))
    assert torch.equal(seen[0][:, -2:], F.one_hot(y_B, 2).double())
    with torch.no_grad():
        torch.testing.assert_close(score_B, -free_energy(family.network[0].double(), seen[0]).float())
    assert x_BCHW[:, 0, :4].min() > 240
    assert x_BCHW[:, 0, 4:].max() < 15


@pytest.mark.parametrize("wrong", [Spec(1, 28, 4, 2), Spec(1, 260, 28, 2), Spec(2, 28, 28, 2)])
def test_shapes_it_cannot_make_are_refused(wrong):
    with pytest.raises(ValueError, match="dbn makes images"):
        dbn.build(Config(), wrong)
