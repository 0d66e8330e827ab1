"""The checkpoint that a command line names with ``ckpt_path``, or that a fine-tune finds beside its sizes."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from pme_lightning.configuration.objects import backbone_arguments, optimizer_arguments
from pme_lightning.data import EncodedDataModule
from pme_lightning.embedding import Shard
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.numbering import numbers_by_size
from pme_lightning.runs.checkpoints import find_sizes, load_module
from pme_lightning.runs.files import find_run_folder
from pme_lightning.search import SearchResult

# The splits that a checkpoint is measured on, and what to do where it was trained on some of their rows.
_OWN_ROWS = "data.{0}_path=FILE data.path=null takes all rows of a file"
_MEASURED_ON = {
    "validate": {"valid": _OWN_ROWS.format("valid")},
    "test": {"test": _OWN_ROWS.format("test")},
    "export": {"valid": _OWN_ROWS.format("valid")},
    "predict": {"predict": "data.predict_path=FILE takes all rows of a file"},
    "finetune": dict.fromkeys(
        ("valid", "test"), "transfer.init=scratch starts from nothing, data.time_column=COLUMN tests on the latest rows"
    ),
}


def load_checkpoint(
    command: str, config: Namespace, data: EncodedDataModule, shard: Shard | None
) -> tuple[CTRModule, SearchResult | None]:
    """Loads the checkpoint of ``config.ckpt_path``, and numbers the tokens of the data as it does.

    Returns:
        The model, and the sizes that its tokens are numbered by; ``None`` where they are numbered as in the vocabulary.

    Raises:
        BadInput: It is no checkpoint, or one of another model or of other data, or it was trained on rows that the
            command measures it on.
    """
    path = config.ckpt_path
    try:
        module = load_module(path, shard)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"ckpt_path: '{path}' cannot be read as a checkpoint of ours: it is damaged, or something else "
            f"({type(error).__name__})"
        ) from error
    _check_same_model(path, module, config)
    # How to train on is the command's to say.
    module.set_optimizers(**optimizer_arguments(config))
    if module.field_tokens != data.field_tokens:
        raise BadInput(
            f"ckpt_path: '{path}' was trained on {len(module.field_tokens)} fields and "
            f"{sum(module.field_tokens)} tokens; the data has {len(data.field_tokens)} and "
            f"{data.num_tokens}: is it the data of that run?"
        )
    _check_unseen(command, data)
    if not numbers_by_size(module.embedding):
        return module, None
    sizes = find_sizes(path, module.hparams["sizes_fingerprint"], config.sizes)
    data.renumber(sizes.order(), sizes.fingerprint())
    return module, sizes


def searched_checkpoint(sizes: str) -> str:
    """Returns the checkpoint of the model that a file of sizes was searched with.

    Raises:
        BadInput: It is not beside the file.
    """
    folder = find_run_folder(sizes)
    path = folder and folder / "checkpoints" / "search" / "last.ckpt"
    if path is None or not path.is_file():
        raise BadInput(
            "transfer.init=warm needs the model that was searched: ckpt_path=PATH of its checkpoint (search and "
            "pareto keep one in checkpoints/search/last.ckpt), or start from nothing: transfer.init=scratch"
        )
    return str(path)


def _check_same_model(path: str, module: CTRModule, config: Namespace) -> None:
    """Refuses a command line that asks for another model than the checkpoint of a run holds."""
    if find_run_folder(path) is None:
        return
    asked = {"backbone": config.backbone.class_path, "backbone_args": backbone_arguments(config)}
    asked |= {key: config.model[key] for key in ("embedding_dim", "embedding_bits")}
    for key, value in asked.items():
        if json.dumps(value, default=str) != json.dumps(module.hparams[key], default=str):
            raise BadInput(
                f"ckpt_path: '{path}' was trained with {key} {module.hparams[key]}, not {value}: "
                "leave backbone and model out, they come with the checkpoint"
            )


def _check_unseen(command: str, data: EncodedDataModule) -> None:
    """Refuses splits to measure a checkpoint on that may have rows which it was trained on, with what to do instead."""
    for split, remedy in _MEASURED_ON[command].items():
        try:
            data.check_unseen(split)
        except BadInput as error:
            raise BadInput(f"{error}; {remedy}") from error
