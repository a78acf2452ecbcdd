"""What a person sees of a training run: a bar on a terminal, one line per epoch elsewhere."""

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm


class EpochProgress:
    """Progress over epochs on stderr; shows nothing when it is not asked to."""

    def __init__(self, epochs: int, show: bool) -> None:
        """A bar of ``epochs`` steps where stderr is a terminal."""
        on_terminal = sys.stderr.isatty()
        self._epochs = epochs
        self._lines = show and not on_terminal
        self._bar = tqdm(total=epochs, desc="training", unit="epoch", disable=not (show and on_terminal))

    def __enter__(self) -> "EpochProgress":
        """Nothing to open; see ``__exit__``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal in order, however training ended."""
        self._bar.close()

    def report(self, entry: dict[str, Any]) -> None:
        """Show one finished epoch: its loss, validation AUC and training seconds."""
        figures = f"loss {entry['loss']:.4f}  valid AUC {entry['valid_auc']:.4f}"
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update()
        if self._lines:
            line = f"epoch {entry['epoch']}/{self._epochs}  {figures}  {entry['seconds']:.1f} s"
            print(line, file=sys.stderr, flush=True)
