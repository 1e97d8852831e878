"""Data parallelism: train one network in several processes, each on its own device, with the results of one.

Every process makes the same random choices for the whole batch and runs the network on its share of the rows. The
processes exchange their outputs, so each computes the loss of the whole batch. Gradients flow through a process's own
rows alone and are summed over the processes. The results differ from those of one process by rounding only.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stmcdi_cli.errors import OptionError, StmcdiError
from stmcdi_cli.logging import Settings, configuration, on_stderr
from stmcdi_cli.model.training.signals import listening


def rank() -> int:
    """Number of this process, from 0; only process 0 reports and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def device_of_rank(device: torch.device) -> torch.device:
    """Device of this process; each process on a machine has its own GPU."""
    if device.type != "cuda" or not dist.is_initialized():
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())))
    torch.cuda.set_device(own)
    return own


def check_devices(devices: int, device: torch.device) -> None:
    """Refuse more processes than there are GPUs for.

    Raises
    ------
    OptionError
        Fewer GPUs are visible.
    """
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise OptionError(
            f"--devices {devices}: {torch.cuda.device_count()} GPUs are visible; ask for more GPUs or fewer"
        )


@contextmanager
def join_process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started; without it, do nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group(_backend(device))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def launch(devices: int, device: torch.device, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call a function in several processes that train together; returns the result of process 0.

    Parameters
    ----------
    devices
        Number of processes.
    device
        Kind of device they compute on.
    function, arguments
        What each calls. Both are sent to the processes by pickle, and so is the result.

    Raises
    ------
    StmcdiError
        The error of a process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="stmcdi_") as folder:
        try:
            processes = torch.multiprocessing.spawn(
                _run_in_group,
                (devices, device, folder, configuration(), function, arguments),
                nprocs=devices,
                join=False,
            )
            with listening(partial(_forward_signal, processes.pids())):  # and end only after they have ended
                while not processes.join():
                    pass
        except torch.multiprocessing.ProcessExitedException:
            for file in sorted(Path(folder).glob("error_*")):
                raise pickle.loads(file.read_bytes()) from None
            raise
        return pickle.loads((Path(folder) / "result").read_bytes())


def _forward_signal(processes: Sequence[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _run_in_group(
    number: int,
    devices: int,
    device: torch.device,
    folder: str,
    log: Settings,
    function: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    # All are on this machine: they find each other through a file and the loopback device, without a network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{folder}/store"
    dist.init_process_group(_backend(device), init_method=store, rank=number, world_size=devices)
    try:
        with on_stderr(log):
            result = function(*arguments)
    except StmcdiError as error:
        # Written before the exit, at which `launch` ends the other processes: they would wait for this one forever.
        (Path(folder) / f"error_{number}").write_bytes(pickle.dumps(error))
        os._exit(error.exit_code)
    if number == 0:
        (Path(folder) / "result").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()


@contextmanager
def split_batch(network: nn.Module) -> Iterator[None]:
    """Within, every training pass of the network computes this process's share of the rows of its inputs [B, ...].

    Its output has the rows of all processes. Rows are along the first dimension, or along `network.batch_dim`.
    """
    if not dist.is_initialized():
        yield
        return
    batch_size, dim = 0, getattr(network, "batch_dim", 0)

    def own_rows() -> range:
        n = dist.get_world_size()
        return range(batch_size * rank() // n, batch_size * (rank() + 1) // n)

    def computed(values: Tensor) -> Tensor:
        rows = own_rows()  # a process without rows computes one that is not used: some networks need at least one
        return values.narrow(dim, rows.start, len(rows)) if rows else values.narrow(dim, 0, 1)

    def of_whole_batch(values: Tensor) -> Tensor:
        return values.new_zeros((*values.shape[:dim], batch_size, *values.shape[dim + 1 :]))

    def split(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        nonlocal batch_size
        if not module.training:
            return None
        batch_size = inputs[0].shape[dim]
        return tuple(computed(values) for values in inputs)

    def gather(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        rows, whole = own_rows(), of_whole_batch(output)
        own = output.narrow(dim, 0, len(rows))
        whole.narrow(dim, rows.start, len(rows)).copy_(own.detach())
        dist.all_reduce(whole)
        after = whole.narrow(dim, rows.stop, batch_size - rows.stop)
        return torch.cat([whole.narrow(dim, 0, rows.start), own, after], dim)

    def drop(module: nn.Dropout, _inputs: Any, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        return output * computed(nn.functional.dropout(of_whole_batch(output) + 1, rates[module]))

    # Dropout draws for the whole batch, so that the random numbers of all processes stay the same.
    rates = {module: module.p for module in network.modules() if isinstance(module, nn.Dropout)}
    hooks = [network.register_forward_pre_hook(split), network.register_forward_hook(gather)]
    hooks += [module.register_forward_hook(drop) for module in rates]
    for module in rates:
        module.p = 0.0
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, rate in rates.items():
            module.p = rate


def sum_gradients(network: nn.Module) -> None:
    """Replace each gradient by its sum over all processes."""
    if not dist.is_initialized():
        return
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    total = torch.cat([gradient.flatten() for gradient in own])
    dist.all_reduce(total)
    for parameter, gradient in zip(trained, total.split([p.numel() for p in trained]), strict=True):
        parameter.grad = gradient.view_as(parameter).clone()


def any_of(flag: bool) -> bool:
    """Whether the flag is true in any process; every process gets the same answer."""
    if not dist.is_initialized():
        return flag
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    shared = torch.tensor(float(flag), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared.item())


def broadcast(value: float, device: torch.device) -> float:
    """Give every process the value of process 0, so that all take the same decisions."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return shared.item()
