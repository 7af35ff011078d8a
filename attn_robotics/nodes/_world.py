"""The parameters that name a world, shared by every node that must see the same one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attn_robotics.paths import find_config
from attn_robotics.ros.parameters import param
from attn_robotics.simulation.world import World


@dataclass(frozen=True)
class WorldParams:
    """Which world; zero, negative or empty values leave the description's own word."""

    world: str = param('worlds/random.yaml', 'World description: a path, or a name below config/.', read_only=True)
    robots: int = param(0, 'Number of robots; 0 takes the description.', low=0, high=1024, read_only=True)
    size: int = param(0, 'Side of a random map [cells]; 0 takes the description.', low=0, high=1000, read_only=True)
    density: float = param(
        -1.0, 'Share of obstacles on a random map; below 0 takes the description.', low=-1.0, high=0.95, read_only=True
    )
    seed: int = param(
        -1, 'Seed of map, starts and goals; below 0 takes the description.', low=-1, high=2**62, read_only=True
    )
    map: str = param(
        '', 'nav2 map_server YAML or MovingAI .map instead of the description; "random" draws one.', read_only=True
    )

    def load(self) -> World:
        """Build the world.

        Raises:
            WorldError: names the file, key or robot and what is wrong with it.
        """
        return World.load(
            find_config(self.world),
            robots=self.robots or None,
            size=self.size or None,
            density=self.density if self.density >= 0 else None,
            seed=self.seed if self.seed >= 0 else None,
            map=str(Path(self.map).expanduser()) if self.map not in ('', 'random') else (self.map or None),
        )
