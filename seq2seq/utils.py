"""The few helpers that have no other room: the user's error, the command line's exit, whole files, precision."""

from __future__ import annotations

import argparse
import errno
import fcntl
import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    import torch

CACHE_NAMES = ("cache", "past_key_values")  # of the models' argument: from transformers 5.24 on, and before
IGNORE = -100  # label of padding and of source tokens: torch's cross-entropy leaves it out
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL}
OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
OF_THE_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


class UserError(Exception):
    """A user's mistake in one line: what is wrong, where (file:line, flag), what to do instead."""


def one_line(text: object, longest: int | None = None) -> str:
    """A text, an error for example, without line breaks, cut to so many characters."""
    return " ".join(str(text).split())[:longest]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content as a whole: a reader, or a kill in between, finds the old one or the new."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write it at once
    try:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def lock(file: Any, busy: str | None = None) -> None:
    """Lock an open file, or a folder's descriptor, until it is closed; where a file system has no locks, do not.

    busy: what to say, as UserError, where another process has it; None = wait for that.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
    except BlockingIOError:
        raise UserError(busy) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise


def cache_of(inputs: Mapping[str, Any]) -> Any:
    """The cache of keys and values among a forward's arguments; None without one."""
    return next((inputs[name] for name in CACHE_NAMES if inputs.get(name) is not None), None)


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not as it was: `n_val 2 there, 4 here; …`."""
    names = [*was, *(name for name in now if name not in was)]
    return "; ".join(f"{n} {was.get(n)} there, {now.get(n)} here" for n in names if was.get(n) != now.get(n))


class OneLineParser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see --help")


def console(**options: Any) -> Any:
    """rich's Console, which where nobody reads any more raises what `print` does, and not SystemExit."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(**options)


def command(main: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Run a command's `main`; a UserError, or a disk that takes no more, becomes one line and exit code 2.

    interrupted: what to say after Ctrl-C (exit code 130), if the KeyboardInterrupt itself does not.
    Where nobody reads the output any more the code is 141.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 141
    except OSError as error:
        if error.errno not in OF_THE_DISK | OF_THE_PATH:
            raise
        where = f"{error.filename}: " if error.filename else ""
        what = "make room or change its permissions, or give another" if error.errno in OF_THE_DISK else "give another"
        print(f"error: {where}{error.strerror}; {what}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(str(error) or interrupted, file=sys.stderr)
        return 130
    except Exception as error:
        if _is_interruption(error):
            print(interrupted, file=sys.stderr)
            return 130
        if _is_out_of_memory(error):
            print(
                f"error: not enough memory ({one_line(error, 100)}); take fewer examples at once (--bsz, --eval_bsz), "
                "fewer --num_beams, a smaller base or prefix, or --gradient_checkpointing",
                file=sys.stderr,
            )
            return 2
        # of libraries that write files in another language, and say it in words alone
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        print(f"error: {one_line(error)}; make room, then go on or start again", file=sys.stderr)
        return 2
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, torch on a CPU, or torch on another device got no memory."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an error comes of a Ctrl-C, which transformers turns into a missing module within an import."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def quick_imports() -> Iterator[None]:
    """While open, no garbage is collected: a fifth of the time that importing torch, transformers and Lightning takes.

    What they made stays as long as the process does, and is not looked through again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def has_bf16_units() -> bool:
    """Whether the training device multiplies bfloat16 matrices in hardware (AMX, AVX512-BF16 or a GPU)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def resolve_precision(choice: Literal["auto", "32", "bf16"]) -> Literal["32", "bf16"]:
    """`auto` becomes bf16 where the processor has units for it, else 32."""
    if choice != "auto":
        return choice
    return "bf16" if has_bf16_units() else "32"


def say_if_slow(precision: Literal["auto", "32", "bf16"]) -> None:
    """A line on standard error where bfloat16 is asked for of a device that has no units for it."""
    if precision == "bf16" and not has_bf16_units():
        print("--precision bf16: this device has no units for it and is far slower than in 32", file=sys.stderr)


def device() -> torch.device:
    """Where to compute: the accelerator that Lightning trains on, else the CPU."""
    import torch

    there = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
    return there or torch.device("cpu")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: the precision of what is trained on a base of this one."""
    import torch

    return torch.promote_types(dtype, torch.float32)


def by_name(function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name. Raises TypeError for too many, and for one that is given twice."""
    if not args:  # as in every training step: a signature costs more than a small layer
        return named
    return dict(**inspect.signature(function).bind_partial(*args).arguments, **named)
