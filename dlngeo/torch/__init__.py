"""Any weight matrix of PyTorch trained as if it were a balanced product of N layers, at the price of one."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    message = "dlngeo.torch needs PyTorch, which is not installed: pip install dlngeo[torch]"
    raise ModuleNotFoundError(message, name="torch") from error

from dlngeo.torch.adapter import DepthAdapter, adapt, to_lora
from dlngeo.torch.optimizer import DepthSGD

__all__ = ["DepthAdapter", "DepthSGD", "adapt", "to_lora"]
