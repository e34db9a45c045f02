"""Deep belief net: restricted Boltzmann machines, one on the other (Hinton, Osindero & Teh 2006).

"A fast learning algorithm for deep belief nets", Neural Computation 18. Each machine is trained in turn
on what the one below makes of the images, by persistent contrastive divergence (Tieleman 2008). The top
one also sees the label, so that with the label held it is a memory of that class: samples start there,
by Gibbs sampling, and fall through the layers below to the pixels.
"""

import copy
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.pixels import eight_bits


class Config(BaseModel):
    """What decides the weights that training arrives at, and how samples are drawn from them.

    hidden: units of each layer, the top one last.
    visible: `bernoulli` pixels, a grey level being a probability; or `gaussian` ones of deviation `sigma`
        in [-1, 1]. None: bernoulli for one channel, gaussian for three.
    lr: Adam's learning rate when a layer's training starts; it falls to 0 by its end.
    decay: how far each weight is drawn to 0, beside its gradient.
    chains: persistent Markov chains, which stand for what the machine believes.
    gibbs: full Gibbs steps of these chains for each update.
    sample_gibbs: full Gibbs steps of the top machine for each sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((512, 1024), min_length=1)
    visible: Literal["bernoulli", "gaussian"] | None = None
    sigma: float = Field(0.25, gt=0)
    lr: float = Field(1e-3, gt=0)
    decay: float = Field(1e-4, ge=0)
    chains: int = Field(128, ge=1)
    gibbs: int = Field(2, ge=1)
    sample_gibbs: int = Field(100, ge=1)


class Machine(nn.Module):
    """A restricted Boltzmann machine: E(v, h) = -v W h - b v - c h, with labels among v if there are any.

    With Gaussian visible units: E(v, h) = |v - b|^2 / (2 sigma^2) - v W h / sigma - c h (Hinton 2010, "A
    practical guide to training restricted Boltzmann machines", eq. 17, one sigma for all).
    """

    def __init__(self, visible: int, hidden: int, labels: int, sigma: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(visible + labels, hidden) * 0.01)
        self.b = nn.Parameter(torch.zeros(visible + labels))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.labels, self.sigma = labels, sigma

    def up(self, v_BV: Tensor) -> Tensor:
        """p(h = 1 | v), (B, hidden) (Hinton 2010, eq. 7)."""
        return (v_BV / (self.sigma or 1.0) @ self.weight + self.c).sigmoid()

    def down(self, h_BH: Tensor) -> Tensor:
        """The mean of p(v | h), (B, visible + labels) (eq. 8); the labels are one softmax group."""
        a_BV = h_BH @ self.weight.T
        if self.sigma is not None:
            return self.b + self.sigma * a_BV
        a_BV = a_BV + self.b
        if not self.labels:
            return a_BV.sigmoid()
        pixels_BV, labels_BK = a_BV[:, : -self.labels], a_BV[:, -self.labels :]
        return torch.cat([pixels_BV.sigmoid(), labels_BK.softmax(1)], dim=1)

    def free_energy(self, v_BV: Tensor) -> Tensor:
        """-ln of the sum over h of e^-E(v, h), (B,): lower is more probable."""
        hidden_B = F.softplus(v_BV / (self.sigma or 1.0) @ self.weight + self.c).sum(1)
        if self.sigma is not None:
            return ((v_BV - self.b) ** 2).sum(1) / (2 * self.sigma**2) - hidden_B
        return -(v_BV @ self.b) - hidden_B

    def draw_visible(self, h_BH: Tensor, u_BV: Tensor) -> Tensor:
        """Draw v given h by uniform numbers of v's shape."""
        mean_BV = self.down(h_BH)
        if self.sigma is not None:
            return mean_BV + self.sigma * torch.special.ndtri(u_BV.clamp(1e-6, 1 - 1e-6))
        drawn_BV = (u_BV < mean_BV).to(mean_BV.dtype)
        if self.labels:
            limits_BK = mean_BV[:, -self.labels :].cumsum(1)
            chosen_B = (u_BV[:, -1:] >= limits_BK[:, :-1]).sum(1)
            drawn_BV[:, -self.labels :] = F.one_hot(chosen_B, self.labels)
        return drawn_BV


class Network(nn.Module):
    """The machines, lowest first, and where each class's samples start in the top one."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        pixels = spec.channels * spec.height * spec.width
        visible = config.visible or ("bernoulli" if spec.channels == 1 else "gaussian")
        self.sigma = config.sigma if visible == "gaussian" else None
        self.machines = nn.ModuleList()
        for n, hidden in enumerate(config.hidden):
            top = n == len(config.hidden) - 1
            below = pixels if n == 0 else config.hidden[n - 1]
            # Labels are a softmax group, which Gaussian visible units have no place for.
            labels = spec.classes if top and (n > 0 or self.sigma is None) else 0
            self.machines.append(Machine(below, hidden, labels, self.sigma if n == 0 else None))

    def __getitem__(self, n: int) -> Machine:
        """Machine `n`, from the bottom."""
        return cast(Machine, self.machines[n])

    def pixels(self, x_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] as visible units (B, pixels): in [0, 1] for Bernoulli ones."""
        flat = x_BCHW.flatten(1)
        return flat if self.sigma is not None else (flat + 1) / 2

    def rise(self, x_BCHW: Tensor, y_B: Tensor | None, to: int, drawn: bool = True) -> Tensor:
        """What machine `to` sees of images: units drawn layer by layer if `drawn`, else their means."""
        v_BV = self.pixels(x_BCHW)
        for n in range(to):
            v_BV = self[n].up(v_BV)
            v_BV = torch.bernoulli(v_BV) if drawn else v_BV
        if self[to].labels:
            y_B = cast(Tensor, y_B)
            v_BV = torch.cat([v_BV, F.one_hot(y_B, self[to].labels).to(v_BV.dtype)], dim=1)
        return v_BV


def statistics(machine: Machine, v_BV: Tensor) -> dict[str, Tensor]:
    """The mean of minus the energy's gradient over visible states `v`, h summed out, by parameter name."""
    h_BH, s = machine.up(v_BV), machine.sigma
    on_b_V = v_BV.mean(0) if s is None else (v_BV - machine.b).mean(0) / s**2
    return {"weight": v_BV.T @ h_BH / len(v_BV) / (s or 1.0), "b": on_b_V, "c": h_BH.mean(0)}


class DBN(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "label"
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "loss": Alarm(0.0, 1.0, "the units do not rebuild what they see"),
        "grad_norm": Alarm(0.0, 1e4, "the gradients explode"),
        "energy_gap": Alarm(-5.0, 5.0, "the chains have left the data"),
    }
    BATCH: ClassVar[int] = 64
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Network

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.5, 0.99), network=Network(config, spec))
        # Nothing that it draws means much before its top layer, the last to be trained, is half done.
        self.settled = 1 - 0.5 / len(config.hidden)
        self.started: Tensor
        self.register_buffer("started", torch.zeros(len(config.hidden)))
        for n in range(len(config.hidden)):
            self.register_buffer(f"chain{n}_QV", torch.zeros(config.chains, len(self.network[n].b)))
        self.start_KV: Tensor
        top = len(self.network[-1].b) - self.network[-1].labels
        self.register_buffer("start_KV", torch.full((max(spec.classes, 1), top), 0.5))
        self._reduce: Any = None
        self._gather: Any = None

    def attach(self, fabric: Any) -> None:
        """Train through Fabric from now on: with several processes, gradients are their mean."""
        super().attach(fabric)
        self._reduce, self._gather = fabric.all_reduce, fabric.all_gather

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update the machine whose turn it is: each layer has an equal share of the training."""
        layers = len(self.config.hidden)
        n = min(int(progress * layers), layers - 1)
        machine = self.network[n]
        v_BV = self.network.rise(batch.x_BCHW, batch.y_B, n)
        chain_QV = getattr(self, f"chain{n}_QV")
        if not self.started[n]:
            self.begin(n, v_BV, chain_QV)
        for _ in range(self.config.gibbs):
            h_QH = torch.bernoulli(machine.up(chain_QV))
            chain_QV.copy_(machine.draw_visible(h_QH, torch.rand_like(chain_QV)))

        adam = self.optimisers["network"]
        for group in adam.param_groups:
            group["lr"] = self.config.lr * max(0.0, 1 - (progress * layers - n)) * float(self.lr_factor)
        adam.zero_grad()
        data, belief = statistics(machine, v_BV), statistics(machine, chain_QV)
        for name, parameter in machine.named_parameters():
            # Ascends the log-likelihood (Hinton 2010, eq. 5, with the chains for its second mean).
            grad = belief[name] - data[name]
            parameter.grad = grad if self._reduce is None else self._reduce(grad)
        cast(Tensor, machine.weight.grad).add_(machine.weight, alpha=self.config.decay)
        norm = nn.utils.get_total_norm([cast(Tensor, p.grad) for p in machine.parameters()])
        adam.step()
        rebuilt_BV = machine.down(machine.up(v_BV))
        gap = (machine.free_energy(chain_QV).mean() - machine.free_energy(v_BV).mean()) / v_BV.shape[1]
        loss = ((rebuilt_BV - v_BV) ** 2).mean()
        return {"loss": float(loss), "layer": float(n), "energy_gap": float(gap), "grad_norm": float(norm)}

    def begin(self, n: int, v_BV: Tensor, chain_QV: Tensor) -> None:
        """Start machine `n` from its first batch: chains on the data, and biases that give its means."""
        if self._gather is not None:  # with several processes, all start from all of their rows
            v_BV = self._gather(v_BV).reshape(-1, v_BV.shape[1])
        machine, mean_V = self.network[n], v_BV.mean(0)
        machine.b.copy_(mean_V if machine.sigma is not None else mean_V.clamp(0.02, 0.98).logit())
        chain_QV.copy_(v_BV[torch.arange(len(chain_QV), device=v_BV.device) % len(v_BV)])
        self.started[n] = 1

    @torch.no_grad()
    def finish(self, batches: Any) -> None:
        """Keep the mean of what the top machine sees of each class, which its samples start from."""
        top = len(self.config.hidden) - 1
        sums_KV, counts_K = torch.zeros_like(self.start_KV), self.start_KV.new_zeros(len(self.start_KV))
        for batch in batches:
            v_BV = self.network.rise(batch.x_BCHW, batch.y_B, top, drawn=False)[:, : sums_KV.shape[1]]
            own_BK = F.one_hot(batch.labels_B, len(sums_KV)).to(v_BV.dtype)
            sums_KV += own_BK.T @ v_BV
            counts_K += own_BK.sum(0)
        seen_K = counts_K > 0
        self.start_KV[seen_K] = sums_KV[seen_K] / counts_K[seen_K, None]

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor]:
        """Draw one image per seed, by `sample_gibbs` Gibbs steps at the top with the label held.

        Computed in float64 whatever the precision: a unit that falls the other way, because a kernel
        rounds otherwise at another batch size, would end in another image.

        Args:
            y_B: int64 labels; None where there are none.
            seeds_B: what each image's units are drawn by.
            sources: not used; the family is asked with labels.

        Returns:
            uint8 images (B, C, H, W), and minus the top machine's free energy (B,): higher is more
            probable, up to a constant that all samples share.
        """
        device = self.lr_factor.device
        y_B = torch.zeros(len(seeds_B), dtype=torch.long, device=device) if y_B is None else y_B.to(device)
        noise = SampleNoise(seeds_B, device)
        with torch.autocast(device.type, enabled=False):
            network = copy.deepcopy(self.network).double()
            top, V = network[-1], self.start_KV.shape[1]
            held_BK = F.one_hot(y_B, max(top.labels, 1)).double()[:, : top.labels]
            v_BV = torch.cat([(noise.uniform((V,)) < self.start_KV[y_B]).double(), held_BK], dim=1)
            if top.sigma is not None:
                v_BV = self.start_KV[y_B].double()
            for _ in range(self.config.sample_gibbs):
                h_BH = (noise.uniform((len(top.c),)) < top.up(v_BV)).double()
                drawn_BV = top.draw_visible(h_BH, noise.uniform((len(top.b),)).double())
                v_BV = torch.cat([drawn_BV[:, :V], held_BK], dim=1)
            score_B = -top.free_energy(v_BV)
            x_BV = top.down(h_BH)[:, :V] if len(network.machines) == 1 else v_BV[:, :V]
            for n in reversed(range(len(network.machines) - 1)):
                x_BV = network[n].down(x_BV)
                if n:
                    x_BV = (noise.uniform((x_BV.shape[1],)) < x_BV).double()
        x_BV = x_BV if network.sigma is not None else 2 * x_BV - 1
        x_BCHW = x_BV.unflatten(1, (self.spec.channels, self.spec.height, self.spec.width))
        return eight_bits(x_BCHW).to(torch.uint8), score_B.float()


def build(config: Config, spec: Spec) -> DBN:
    """Make the family. Raises ValueError unless the sides are from 8 to 256."""
    spec.demand("dbn")
    visible = config.visible or ("bernoulli" if spec.channels == 1 else "gaussian")
    if spec.classes and visible == "gaussian" and len(config.hidden) == 1:
        raise ValueError("dbn with gaussian visible units has no place for labels; give hidden two layers")
    return DBN(config, spec)
