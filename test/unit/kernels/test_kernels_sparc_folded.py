"""The folded form of the network decides as the network does."""

from __future__ import annotations

import pytest
import torch

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.folded import FoldedNetwork, obstacle
from attn_robotics.systems.sparc.model import SparcNetwork

SMALL = {'width': 64, 'heads': 2, 'layers': 2, 'feed_forward': 128, 'relation_embedding': 32}
CASES = {
    'offsets': SparcConfig(**SMALL),
    'distances': SparcConfig(**SMALL, relation='distance', mask_radius=40, field_of_view=3),
    'content only': SparcConfig(**SMALL, content_only=True),
    'hears itself alone': SparcConfig(**SMALL, mask_radius=0),
    'narrow heads': SparcConfig(**(SMALL | {'width': 24})),
}


@pytest.mark.parametrize('config', CASES.values(), ids=CASES)
@pytest.mark.parametrize('robots', [1, 21, 70])
def test_decisions_and_messages_equal_those_of_the_network(device, config, robots):
    torch.manual_seed(0)
    network = SparcNetwork(config).to(device).eval()
    for parameter in network.parameters():  # fresh biases and norms are zeros and ones, which would hide a lost one
        parameter.data += 0.1 * torch.randn_like(parameter)
    image = (torch.rand(robots, 8, config.field_of_view, config.field_of_view, device=device) < 0.3).float()
    vector = torch.randn(robots, config.vector_features, device=device)
    messages = torch.randn(robots, config.width, device=device)
    cells = torch.randint(0, 14, (1, robots, 2), device=device)
    relation = network.neighbour_relation(cells, cells)
    with torch.inference_mode():
        truth = network(image[None], vector[None], relation, messages[None])
        log_probs, message = FoldedNetwork(network)(image, vector, relation[0].int().contiguous(), messages)
    torch.testing.assert_close(log_probs.exp(), truth.log_probs[0].exp(), atol=2e-5, rtol=0)
    torch.testing.assert_close(message, truth.message[0], atol=2e-4, rtol=0)


def test_a_network_of_another_shape_is_refused_by_name():
    assert obstacle(SparcConfig()) is None
    assert 'stacked' in obstacle(SparcConfig.paper())
