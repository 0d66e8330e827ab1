"""Every experiment that is shipped makes one whole, checked configuration."""

from __future__ import annotations

import pytest
import torch
from jsonargparse import Namespace

from pme_lightning.callbacks import PlateauCallback
from pme_lightning.configuration.command_line import parse_words
from pme_lightning.configuration.composition import compose
from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.configuration.objects import build, init_args, optimizer_arguments
from pme_lightning.configuration.parser import parse_config
from pme_lightning.module import CTRModule

FRAPPE = {
    "frappe_fm": "FM",
    "frappe_deepfm": "DeepFM",
    "frappe_dcn": "DCN",
    "frappe_dcnv2": "DCNv2",
    "frappe_autoint": "AutoInt",
    "frappe_autoint_plus": "AutoIntPlus",
}


def config_of(experiment: str) -> Namespace:
    return parse_config(compose(parse_words(["fit", f"experiment={experiment}"])))[1]


@pytest.mark.parametrize("experiment", GroupFiles().choices("experiment"))
def test_every_experiment_builds_its_model_and_optimizer(experiment: str) -> None:
    config = config_of(experiment)
    module = CTRModule(
        [3, 4, 5],
        backbone=config.backbone.class_path,
        backbone_args=init_args(config.backbone),
        **optimizer_arguments(config),
        **config.model.as_dict(),
    )
    module.eval()
    assert module(torch.tensor([[0, 3, 7], [2, 6, 11]])).shape == (2,)
    trained = [p for group in module.configure_optimizers().param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in module.parameters()}


@pytest.mark.parametrize(("experiment", "backbone"), FRAPPE.items())
def test_the_frappe_experiments_are_at_the_benchmark_s_sizes(experiment: str, backbone: str) -> None:
    config = config_of(experiment)
    assert config.backbone.class_path == f"pme_lightning.backbones.{backbone}"
    assert config.model.embedding_dim == 10
    data = config.data.init_args
    assert (data.path, data.batch_size, data.min_count) == ("reczoo/Frappe_x1", 4096, 1)
    (plateau,) = build(config.trainer)["callbacks"]
    assert isinstance(plateau, PlateauCallback)
    # Otherwise training would end before the lower rate has had its turn.
    assert config.early_stopping.patience > plateau.patience
