"""Train the attention selector on synthetic scripted scenes (a minute or two on one CPU core)."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from attn_robotics.systems.gaze.entities import MAX_ENTITIES, N_FEATURES, SceneMemory
from attn_robotics.systems.gaze.scenes import make_scene
from attn_robotics.systems.gaze.selector import FORMAT, N_STATE, WEIGHTS, scene_arrays
from attn_robotics.systems.gaze.selector_network import AttentionSelectorNetwork, graph_bytes
from attn_robotics.training.export import write_bytes

LABEL_NOISE = 0.05
REACTION = 0.25  # s by which the attended target follows the label, as it will in use
FIRST_TRAINING_SEED = 10_000  # scenes 0 to 9999 are for evaluation


def make_frames(scenes: int, seed: int, every: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens (F, 16, 15), states (F, 3), masks (F, 16) and label indices (F,), index 16 being idle."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []
    for k in tqdm(range(scenes), desc='scenes'):
        memory, history = SceneMemory(), ['']
        offset = int(rng.integers(every))
        for i, frame in enumerate(make_scene(FIRST_TRAINING_SEED + seed * 1000 + k)):
            history.append(frame.label)
            current = history[max(0, len(history) - 1 - int(REACTION / 0.05))]
            if rng.random() < 0.02 and frame.entities:
                current = frame.entities[int(rng.integers(len(frame.entities)))].id
            scene = memory.observe(frame.t, frame.entities, current=current)
            if i % every != offset:
                continue
            tokens, state = scene_arrays(scene)
            ids = [e.id for e in scene.entities]
            label = ids.index(frame.label) if frame.label in ids else MAX_ENTITIES
            if rng.random() < LABEL_NOISE and ids:
                label = int(rng.integers(len(ids)))
            padded = np.zeros((MAX_ENTITIES, N_FEATURES + 1), np.float32)
            padded[: len(ids)] = tokens
            rows.append((padded, state.astype(np.float32), np.arange(MAX_ENTITIES) < len(ids), label))
    columns = list(zip(*rows, strict=True))
    return (
        torch.from_numpy(np.stack(columns[0])),
        torch.from_numpy(np.stack(columns[1]).reshape(-1, N_STATE)),
        torch.from_numpy(np.stack(columns[2])),
        torch.tensor(columns[3]),
    )


def train(scenes: int, epochs: int, seed: int, rate: float) -> tuple[AttentionSelectorNetwork, dict[str, float]]:
    """Train; returns the network and facts. Columns are cut to the largest scene, entities shuffled every step."""
    torch.manual_seed(seed)
    tokens, state, mask, label = make_frames(scenes, seed)
    most = int(mask.sum(1).max())
    label = torch.where(label == MAX_ENTITIES, torch.full_like(label, most), label)
    tokens, mask = tokens[:, :most], mask[:, :most]
    network = AttentionSelectorNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3)
    batch = 256
    steps = epochs * (tokens.shape[0] // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    right, loss_sum, count = 0.0, 0.0, 0
    for _ in tqdm(range(epochs), desc='epochs'):
        right, loss_sum, count = 0.0, 0.0, 0
        order = torch.randperm(tokens.shape[0])
        for k in range(tokens.shape[0] // batch):
            rows = order[k * batch : (k + 1) * batch]
            logits, _weights = network(tokens[rows], state[rows], mask[rows])
            loss = functional.cross_entropy(logits, label[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            right += float((logits.argmax(1) == label[rows]).float().mean())
            loss_sum += float(loss.detach())
            count += 1
    return network, {'accuracy_with_label_noise': right / max(count, 1), 'loss': loss_sum / max(count, 1)}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', type=Path, default=WEIGHTS)
    parser.add_argument('--scenes', type=int, default=300)
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--rate', type=float, default=2e-3)
    args = parser.parse_args(argv)
    network, facts = train(args.scenes, args.epochs, args.seed, args.rate)
    data = save({name: value.half().contiguous() for name, value in network.state_dict().items()})
    card = {
        'format': FORMAT,
        'system': 'gaze attention selector',
        'training': {'scenes': args.scenes, 'epochs': args.epochs, 'seed': args.seed, **facts},
        'data': 'synthetic scripted scenes (scenes.py)',
        'sha256': hashlib.sha256(data).hexdigest(),
    }
    write_bytes(args.out, data)
    write_bytes(args.out.with_suffix('.json'), (json.dumps(card, indent=2) + '\n').encode())
    write_bytes(args.out.with_suffix('.onnx'), graph_bytes(args.out))
    print(json.dumps(facts))


if __name__ == '__main__':
    main()
