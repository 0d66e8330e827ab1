"""A synthetic click log: the best reachable AUC and every token's true interaction rank are known."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pme_lightning.data.encoded import EncodedDataModule
from pme_lightning.data.encoded_data import EncodedData
from pme_lightning.data.folders import check_only_own, whole_folder
from pme_lightning.data.options import SPLITS
from pme_lightning.data.planted import ClickRows, Plan, best_metrics, check_range, draw_rows, plant
from pme_lightning.errors import BadInput

VOCABULARY_FILE = "synthetic.json"


class SyntheticDataModule(EncodedDataModule):
    """A click log drawn from a planted model, in memory; the same arguments always give the same log.

    Tokens of the validation and test rows that no training row has are out-of-vocabulary (index 0 of their field).

    Args:
        rows: of all splits together, at least 100.
        tokens: ``V``, of all fields, out-of-vocabulary ones included; at least 10 per field.
        num_fields: ``F``, at least 2. Their vocabularies grow geometrically from 10 tokens to the bulk.
        max_rank: ``K``, the highest interaction rank, 1 to 256; ranks are 0, 1, 2, 4, ... up to it.
        zipf_exponent: of token popularity within a field, 0 (uniform) to 5.
        rank_tilt: how much fields differ in their shares of high and low ranks, 0 (not at all) to 10.
        first_order_scale: standard deviation of the logit's first-order part, 0 to 10.
        interaction_scale: standard deviation of the logit's interaction part, 0.01 to 10.
        click_rate: share of clicks, 0.001 to 0.999.
        fractions: of the rows for train, valid and test.
        planted_seed: of the planted model and of the rows, apart from ``seed``: runs with other seeds see one log.
        batch_size: training rows per batch and process.
        eval_batch_size: rows per batch and process in validation, test and prediction.
        num_workers: loader processes.
        seed: of the shuffling.
        on_gpu: whether a GPU that trains holds the rows in its memory; where they take a quarter at most of the memory
            that is free there, if not given.

    Attributes:
        best_auc: after ``setup()``, test AUC of the planted probabilities: no model can expect a higher one.
        best_logloss: after ``setup()``, their test logloss.
        planted_ranks: after ``setup()``, int64 ``(V,)``, the true interaction rank of each token.

    Raises:
        BadInput: an argument is out of range.

    Examples:
        >>> data = SyntheticDataModule(rows=1_000, tokens=100, num_fields=3)
        >>> data.setup()
        >>> data.field_tokens, data.rows
        ([10, 25, 65], {'train': 800, 'valid': 100, 'test': 100})
        >>> ids, labels = next(iter(data.val_dataloader()))
        >>> ids.shape, labels.shape
        (torch.Size([100, 3]), torch.Size([100]))
    """

    best_auc: float
    best_logloss: float
    planted_ranks: Tensor

    def __init__(
        self,
        rows: int = 300_000,
        tokens: int = Plan.tokens,
        num_fields: int = Plan.num_fields,
        max_rank: int = Plan.max_rank,
        zipf_exponent: float = Plan.zipf_exponent,
        rank_tilt: float = Plan.rank_tilt,
        first_order_scale: float = Plan.first_order_scale,
        interaction_scale: float = Plan.interaction_scale,
        click_rate: float = Plan.click_rate,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        planted_seed: int = Plan.planted_seed,
        batch_size: int = 1024,
        eval_batch_size: int = 16384,
        num_workers: int = 0,
        seed: int = 42,
        on_gpu: bool | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed, on_gpu)
        self.plan = Plan(
            tokens,
            num_fields,
            max_rank,
            zipf_exponent,
            rank_tilt,
            first_order_scale,
            interaction_scale,
            click_rate,
            planted_seed,
        )
        check_range("rows", rows, 100, 10**10, whole=True)
        fractions = fractions or ()
        if len(fractions) != len(SPLITS) or min(fractions) <= 0 or not abs(sum(fractions) - 1) <= 1e-6:
            raise BadInput(f"data.fractions must be three positive numbers that sum to 1, not {list(fractions)}")
        self.split_ends = np.rint(np.cumsum(fractions) * rows).astype(np.int64).tolist()
        for split, size in zip(SPLITS, np.diff(self.split_ends, prepend=0), strict=True):
            if size == 0:
                raise BadInput(f"data.fractions leave no row of {rows} for the {split} split: raise its fraction")
        self.num_rows = rows

    def encoded(self) -> EncodedData:
        """Draws the planted model and the rows, and splits them in order (rows are independent of one another).

        Raises:
            BadInput: they do not fit in memory.
        """
        try:
            model = plant(self.plan)
            drawn = draw_rows(model, self.num_rows, seed=(self.plan.planted_seed, 2))
        except MemoryError as error:
            raise BadInput(
                f"a log of data.rows={self.num_rows} and data.tokens={self.plan.tokens} does not fit in memory: {error}"
            ) from error
        train_end, valid_end, _ = self.split_ends
        test = slice(valid_end, None)
        self.best_auc, self.best_logloss = best_metrics(
            ClickRows(drawn.ids[test], drawn.labels[test], drawn.logits[test])
        )
        self.planted_ranks = torch.from_numpy(model.ranks)

        V = self.plan.tokens
        frequencies = np.zeros(V, dtype=np.int64)
        offsets = np.cumsum([0, *model.field_tokens[:-1]])
        for f, offset in enumerate(offsets):
            frequencies += np.bincount(drawn.ids[:train_end, f], minlength=V)
            unseen = frequencies[drawn.ids[train_end:, f]] == 0
            drawn.ids[train_end:, f][unseen] = offset
        bounds = [slice(0, train_end), slice(train_end, valid_end), test]
        return EncodedData(
            name="synthetic",
            fields=[f"field_{f}" for f in range(1, self.plan.num_fields + 1)],
            field_tokens=model.field_tokens,
            frequencies=torch.from_numpy(frequencies),
            splits={
                split: (drawn.ids[bound], drawn.labels[bound]) for split, bound in zip(SPLITS, bounds, strict=True)
            },
        )

    def save_vocabulary(self, folder: str | Path) -> None:
        """Writes a folder with the arguments that the log is made from: they are all of its vocabulary.

        Raises:
            BadInput: the folder exists and holds something else.
        """
        check_only_own(Path(folder), re.escape(VOCABULARY_FILE), "a vocabulary")
        with whole_folder(Path(folder)) as partial:
            (partial / VOCABULARY_FILE).write_text(json.dumps(self._arguments(), indent=1), encoding="utf-8")

    def use_vocabulary(self, folder: str | Path) -> None:
        """Checks that the log is made as the one whose vocabulary was saved.

        Raises:
            BadInput: there is none, it cannot be read, or an argument differs.
        """
        path = Path(folder) / VOCABULARY_FILE
        if not path.is_file():
            raise BadInput(f"no vocabulary of a synthetic log in '{folder}': there is no {VOCABULARY_FILE}")
        try:
            saved = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"'{path}' cannot be read as the arguments of a synthetic log: {error}") from error
        for key, value in self._arguments().items():
            if saved.get(key) != value:
                raise BadInput(
                    f"data.{key} is {value}, but the vocabulary in '{folder}' was made with {saved.get(key)}"
                )

    def _arguments(self) -> dict[str, object]:
        # Rows and splits too: another cut would test on rows that the model was trained on.
        return {**asdict(self.plan), "rows": self.num_rows, "split_ends": self.split_ends}
