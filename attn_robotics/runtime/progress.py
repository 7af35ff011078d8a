"""A progress bar for long loads, for people at a terminal."""

from __future__ import annotations

from tqdm import tqdm

from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.engine import Engine, ModelStatus


def load_with_bar(engine: Engine, name: str) -> ModelStatus:
    """Load a model behind a bar that shows reading, building and warming up; none where no terminal is.

    Raises:
        EngineError: as `Engine.load` and its future.
    """
    with tqdm(desc=name, leave=False, disable=None) as bar:

        def show(progress: Progress) -> None:
            is_bytes = progress.stage == 'read'
            bar.unit, bar.unit_scale = ('B', True) if is_bytes else ('', False)
            bar.set_description(f'{name}: {progress.stage}', refresh=False)
            bar.total, bar.n = progress.total, progress.done
            bar.refresh()

        return engine.load(name, show).result()
