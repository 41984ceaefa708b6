"""What no part of a training step may do: wait for the device to read a tensor's value on the host."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


READS = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.item,
    torch.ops.aten.equal,
    torch.ops.aten.nonzero,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.masked_select,
}
BY_INDEX = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


class NoHostRead(TorchDispatchMode):
    """Fails on what reads a tensor's value on the host, or needs it for the shape of a result."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in READS, func
        if func.overloadpacket in BY_INDEX:
            assert all(not isinstance(index, Tensor) or index.dtype != torch.bool for index in args[1]), func
        return func(*args, **(kwargs or {}))
