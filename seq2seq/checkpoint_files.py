"""Checkpoints as local files, read and written where they are.

Lightning's own go through URLs and a copy in the system's temporary folder: a run in `~`, or at a path with `::`, lost
its checkpoint, a small temporary folder stopped a training whose disk was empty, and a kill left the copy behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


class LocalCheckpoints(TorchCheckpointIO):
    """Lightning's plugin that reads and writes checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. Raises OSError, with the path, where the disk takes no more."""
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own writer hides the disk's error behind one of its own
            of_disk = error if isinstance(error, OSError) else error.__context__
            if not isinstance(of_disk, OSError):
                raise
            raise OSError(of_disk.errno, of_disk.strerror, str(path)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, onto the CPU where nothing else is asked for; FileNotFoundError where there is none."""
        with Path(path).open("rb") as file:
            return torch.load(file, map_location=map_location, weights_only=weights_only)
