"""Train one network in several processes, each on its device: data parallelism that leaves the method as it is.

Every process makes the same random choices for the whole batch and runs the network on its share of the rows. The rows
of the others are exchanged, so each sees the loss of the whole batch; gradients flow through its own rows alone and are
added up over the processes. What one process computes and what several do differs by rounding.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    """Number of this process, from 0; process 0 is the one that reports and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def device_of_rank(device: torch.device) -> torch.device:
    """Device of this process: each process on a machine has a GPU of its own."""
    if device.type != "cuda" or not dist.is_initialized():
        return device
    mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())))
    torch.cuda.set_device(mine)
    return mine


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
def torchrun(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, where it did."""
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
    """Call a function in several processes that train together; gives what it gave in process 0.

    Parameters
    ----------
    devices
        How many processes.
    device
        Kind of device they compute on.
    function, arguments
        What each calls; both go to them by pickle, and so does the result.

    Raises
    ------
    StmcdiError
        What the first process to fail raised.
    """
    with tempfile.TemporaryDirectory(prefix="stmcdi_") as folder:
        try:
            members = torch.multiprocessing.spawn(
                _member, (devices, device, folder, configuration(), function, arguments), nprocs=devices, join=False
            )
            with listening(partial(_pass_on, members.pids())):  # and live as long as they do
                while not members.join():
                    pass
        except torch.multiprocessing.ProcessExitedException:
            for file in sorted(Path(folder).glob("error_*")):
                raise pickle.loads(file.read_bytes()) from None
            raise
        return pickle.loads((Path(folder) / "result").read_bytes())


def _pass_on(processes: Sequence[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _member(
    number: int,
    devices: int,
    device: torch.device,
    folder: str,
    log: Settings,
    function: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    # All are on this machine: find each other through a file and the loopback, which no network setup can break.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{folder}/store"
    dist.init_process_group(_backend(device), init_method=store, rank=number, world_size=devices)
    try:
        with on_stderr(log):
            result = function(*arguments)
    except StmcdiError as error:
        # Known before the exit that makes the others be ended: they would wait for this one for ever.
        (Path(folder) / f"error_{number}").write_bytes(pickle.dumps(error))
        os._exit(error.exit_code)
    if number == 0:
        (Path(folder) / "result").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()


@contextmanager
def shared_rows(network: nn.Module) -> Iterator[None]:
    """Within, every training pass of the network shares out the rows of its inputs, all tensors of [B, ...].

    A list of networks is not called itself: each of its members shares out its own.
    """
    if not dist.is_initialized():
        yield
        return
    with ExitStack() as stack:
        for member in network if isinstance(network, nn.ModuleList) else [network]:
            stack.enter_context(_shared_rows(member))
        yield


@contextmanager
def _shared_rows(network: nn.Module) -> Iterator[None]:
    batch = [0]

    def mine() -> slice:
        return slice(batch[0] * rank() // dist.get_world_size(), batch[0] * (rank() + 1) // dist.get_world_size())

    def computed() -> slice:
        rows = mine()  # a process without rows computes one for nothing, for networks that cannot do without
        return rows if rows.start < rows.stop else slice(0, 1)

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not module.training:
            return None
        batch[0] = len(inputs[0])
        return tuple(part[computed()] for part in inputs)

    def give(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        rows = mine()
        own = output[: rows.stop - rows.start]
        whole = output.new_zeros((batch[0], *output.shape[1:]))
        whole[rows] = own.detach()
        dist.all_reduce(whole)
        return torch.cat([whole[: rows.start], own, whole[rows.stop :]])

    def drop(module: nn.Dropout, _inputs: Any, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        return (
            output * nn.functional.dropout(output.new_ones((batch[0], *output.shape[1:])), chances[module])[computed()]
        )

    # Dropout draws for the whole batch too, or the processes' random numbers would part ways.
    chances = {module: module.p for module in network.modules() if isinstance(module, nn.Dropout)}
    hooks = [network.register_forward_pre_hook(take), network.register_forward_hook(give)]
    hooks += [module.register_forward_hook(drop) for module in chances]
    for module in chances:
        module.p = 0.0
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, chance in chances.items():
            module.p = chance


def sum_gradients(network: nn.Module) -> None:
    """Add up the gradients of all processes."""
    if not dist.is_initialized():
        return
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    total = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(total)
    for parameter, part in zip(trained, total.split([part.numel() for part in parts]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def any_of(flag: bool) -> bool:
    """Tell every process whether it is so in any."""
    if not dist.is_initialized():
        return flag
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    shared = torch.tensor(float(flag), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared.item())


def agreed(value: float, device: torch.device) -> float:
    """Give every process the value of process 0, so that all decide alike."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return shared.item()
