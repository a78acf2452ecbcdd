"""What a person sees of a training run: a bar on a terminal, lines elsewhere."""

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm


class EpochProgress:
    """Progress over epochs or iterations on stderr; shows nothing when it is not asked to."""

    def __init__(self, epochs: int, show: bool, *, unit: str = "epoch", line_every: int = 1) -> None:
        """A bar of ``epochs`` steps where stderr is a terminal, elsewhere a line for every ``line_every``-th."""
        on_terminal = sys.stderr.isatty()
        self._epochs, self._unit, self._line_every = epochs, unit, line_every
        self._lines = show and not on_terminal
        self._bar = tqdm(total=epochs, desc="training", unit=unit, disable=not (show and on_terminal))

    def __enter__(self) -> "EpochProgress":
        """Nothing to open; see ``__exit__``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal in order, however training ended."""
        self._bar.close()

    def report(self, entry: dict[str, Any]) -> None:
        """Show one finished epoch: its loss, its validation figure or gradient norm, and training seconds."""
        figures = f"loss {entry['loss']:.4f}"
        for name in entry:
            if name.startswith("valid_"):
                figures += f"  {name.replace('_', ' ').replace('auc', 'AUC')} {entry[name]:.4f}"
        figures += f"  gradient {entry['gradient_norm']:.2g}" if "gradient_norm" in entry else ""
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update()
        if self._lines and entry["epoch"] % self._line_every == 0:
            line = f"{self._unit} {entry['epoch']}/{self._epochs}  {figures}  {entry['seconds']:.1f} s"
            print(line, file=sys.stderr, flush=True)
