"""What is trained of a prefix: keys and values of a site, or input vectors; through an MLP, or as they are (flat).

    E ──Linear──Tanh──(Linear──Tanh, deep)──Linear──► P × (2·L·d) ──► L layers × (key, value) × H × P × D
    E ──Linear──Tanh──Linear──► P × width                              input vectors

Shapes: L layers, H key/value heads, P prefix length, D head width, d = H·D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seq2seq.prefix_attention import Site


class SitePrefix(nn.Module):
    """The learned keys and values of one site: an MLP over P embeddings, or the keys and values themselves (flat).

    Args:
        mid_dim: width of the MLP's hidden layer; 0 = flat.
        deep: one more hidden layer.
    """

    def __init__(self, site: Site, preseqlen: int, mid_dim: int, deep: bool) -> None:
        super().__init__()
        self.shape = (len(site.modules), 2, site.heads, preseqlen, site.head_dim)
        if mid_dim == 0:
            self.key_values = nn.Parameter(torch.randn(self.shape))
            return
        self.embedding = nn.Parameter(torch.randn(preseqlen, site.width))
        self.mlp = _mlp(site.width, mid_dim, 2 * len(site.modules) * site.heads * site.head_dim, deep)

    @property
    def flat(self) -> bool:
        """Whether there is no MLP."""
        return "key_values" in self._parameters

    def forward(self) -> Tensor:
        """Keys and values of all layers (L, 2, H, P, D)."""
        if self.flat:
            return self.key_values
        layers, two, heads, length, head_dim = self.shape
        with torch.autocast(self.embedding.device.type, enabled=False):  # the prefix stays in its own precision
            features = self.mlp(self.embedding)  # feature (2·layer + kv)·d + head·D + j
        return features.view(length, layers, two, heads, head_dim).permute(1, 2, 3, 0, 4)

    def resize(self, preseqlen: int) -> None:
        """Another prefix length; new vectors are random."""
        layers, two, heads, length, head_dim = self.shape
        self.shape = (layers, two, heads, preseqlen, head_dim)
        if not self.flat:
            self.embedding = _resized(self.embedding, preseqlen)
        elif preseqlen != length:
            self.key_values = nn.Parameter(self.key_values.new_empty(self.shape).normal_())


class InputVectors(nn.Module):
    """P trained input vectors of the base model: a table, or an MLP over it.

    Args:
        mid_dim: width of the MLP's hidden layer; 0 = the table alone.
    """

    def __init__(self, preseqlen: int, width: int, mid_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(preseqlen, width))
        if mid_dim:
            self.mlp = _mlp(width, mid_dim, width, deep=False)

    @property
    def flat(self) -> bool:
        """Whether there is no MLP."""
        return "mlp" not in self._modules

    def forward(self) -> Tensor:
        """The vectors (P, width)."""
        if self.flat:
            return self.embedding
        with torch.autocast(self.embedding.device.type, enabled=False):
            return self.mlp(self.embedding)

    def resize(self, preseqlen: int) -> None:
        """Another number of vectors; new ones are random."""
        self.embedding = _resized(self.embedding, preseqlen)


Parametrisation = SitePrefix | InputVectors


def fit(modules: dict[str, Parametrisation], targets: dict[str, Tensor], steps: int = 500, lr: float = 1e-4) -> float:
    """Make each module give its target: at once where it is flat, else by Adam steps on its MLP, the embeddings fixed.

    Returns the mean squared error that is left, mean over the modules.
    Source: the authors' `lowdata_init_train3`, 500 steps at 1e-4.
    """
    fitted = [name for name in modules if not modules[name].flat]
    for name in modules.keys() - fitted:
        with torch.no_grad():
            next(modules[name].parameters()).copy_(targets[name])
    if fitted:
        optimizer = torch.optim.Adam([p for name in fitted for p in modules[name].mlp.parameters()], lr=lr)
    with torch.enable_grad():
        for _ in range(steps if fitted else 0):
            losses = [nn.functional.mse_loss(modules[name](), targets[name]) for name in fitted]
            torch.stack(losses).sum().backward()
            optimizer.step()
            for name in fitted:
                modules[name].zero_grad()
    with torch.no_grad():
        return sum(nn.functional.mse_loss(modules[name](), targets[name]).item() for name in modules) / len(modules)


def _mlp(width: int, mid_dim: int, outputs: int, deep: bool) -> nn.Sequential:
    middle = [nn.Linear(mid_dim, mid_dim), nn.Tanh()] if deep else []
    return nn.Sequential(nn.Linear(width, mid_dim), nn.Tanh(), *middle, nn.Linear(mid_dim, outputs))


def _resized(embedding: nn.Parameter, rows: int) -> nn.Parameter:
    more = embedding.new_empty(max(0, rows - len(embedding)), embedding.shape[1]).normal_()
    return nn.Parameter(torch.cat((embedding.detach()[:rows], more)))
