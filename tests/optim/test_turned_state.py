"""What optimizers keep of rows turns with them."""

from __future__ import annotations

import torch

from pme_lightning.embedding import FullEmbedding
from pme_lightning.optim import turn_state


def test_what_optimizers_keep_turns_with_the_rows() -> None:
    torch.manual_seed(0)
    embedding = FullEmbedding(6, 4)
    basis = torch.linalg.qr(torch.randn(4, 4))[0]
    for cls, options, means in (
        (torch.optim.Adam, {"amsgrad": True}, {"exp_avg"}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"momentum_buffer"}),
        (torch.optim.RMSprop, {"centered": True}, {"grad_avg"}),
        (torch.optim.Adagrad, {}, set()),
        (torch.optim.Adadelta, {}, set()),
    ):
        optimizer = cls([embedding.weight], **options)
        embedding.weight.grad = torch.randn(6, 4)
        optimizer.step()
        state = optimizer.state[embedding.weight]
        before = {name: kept.clone() for name, kept in state.items() if kept.shape == (6, 4)}
        assert before.keys() >= means
        assert len(before) > 0
        turn_state(optimizer, embedding.weight, basis)
        for name, kept in before.items():
            turned = kept @ (basis if name in means else basis.square())
            torch.testing.assert_close(state[name], turned, msg=f"{cls.__name__} {name}")
            assert name in means or (state[name] >= 0).all()
