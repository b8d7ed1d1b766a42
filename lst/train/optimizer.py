"""The optimiser of every training."""

from torch import nn
from torch.optim import AdamW

from lst.train.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW; vectors (the gains of the norms) do not decay."""
    parameters = [value for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in parameters if value.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in parameters if value.dim() <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
