"""GenFT's configuration: its settings, and checks for meaningless combinations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from genft.api.config import AdapterConfig, former_values, setting
from genft.errors import AdapterFileError
from genft.ops.plan import PLANS

ACTIVATIONS = ("identity", "relu", "leaky_relu", "gelu", "tanh")
#: Initialisations of the paper's specific factors (Tables 8-10).
PAPER_INITS = ("kaiming_uniform", "xavier_uniform", "normal", "zeros")


def is_official(config: Mapping[str, Any]) -> bool:
    """Whether the content of an adapter_config.json was written by the GenFT authors' own code, and not by us.

    Their fork of peft has our ``peft_type`` for files of another layout.
    """
    return config.get("peft_type") == "GENFT" and "generator_share_dim" in config


def what_it_is(folder: str | Path, base: str | None = None) -> str:
    """One sentence for whoever meets such a folder where an adapter of ours is expected."""
    return (
        f"{folder}: this adapter was saved by the GenFT authors' own code, whose files differ from this package's; "
        f"convert it with `genft import-official {folder} --base {base or 'MODEL'} --out DIR`"
    )


@dataclass
class GenFTConfig(AdapterConfig):
    """Configuration of GenFT; every field can keep its default. docs/defaults.md shows how the defaults were measured.

    The default starts exactly at the pretrained function and trains 36 numbers for every width of a weight's inputs and
    outputs: 36·(d + f) = 180·d in a transformer of width d with f = 4·d in its MLPs, however many layers it has. LoRA
    of rank 8 on q and v trains 32·d per layer.
    """

    method = "genft"

    scope: str = setting(
        "block",
        "Weights to adapt if target_modules is not given. 'qv': query and value of every attention layer; "
        "'attention': also key and output; 'block': every linear weight of a layer, including the MLP's.",
        choices=("qv", "attention", "block"),
    )
    form: str = setting(
        "bounded",
        "'paper': the equations; 'official': the authors' code, which produced their tables; 'bounded': "
        "normalised, so that the rate of change does not depend on the base, the width or the rank.",
        choices=("paper", "official", "bounded"),
        later=True,
        formerly="paper",
    )
    shared_dim: int = setting(
        9, "a: number of columns of the factors that all adapted weights share; 0 for none.", ge=0
    )
    specific_dim: int = setting(
        0, "b: number of columns of the factors specific to a weight (or layer); 0 for none.", ge=0
    )
    act_row: str = setting("identity", "Activation σ1 of the row stage.", choices=ACTIVATIONS)
    act_col: str = setting("identity", "Activation σ2 of the column stage.", choices=ACTIVATIONS)
    act_inner: str = setting(
        "identity",
        "Activation on both bottlenecks (official form).",
        choices=ACTIVATIONS,
        needs={"form": "official"},
        later=True,
    )
    act_outer: str = setting(
        "identity",
        "Activation on both generated matrices (official form).",
        choices=ACTIVATIONS,
        needs={"form": "official"},
        later=True,
    )
    w0_ratio: float | None = setting(
        None,
        "Scale of W0 in the generator (ratio in Eq. 5). By default, it gives the entries of the adapted weights a root "
        "mean square of 1, so that training is equally fast on every base; 1 in the official form.",
        ne=0,
    )
    ratio_power: int = setting(
        1,
        "How the authors' programs use w0_ratio (official form). 4, images: it multiplies every factor. 1, texts: it "
        "multiplies W0, but only with specific columns; without shared ones, ΔW = B A, not generated from W0.",
        choices=(1, 4),
        needs={"form": "official"},
        later=True,
    )
    scaling: float = setting(0.05, "Scale of the generated update (Eq. 7).", ne=0)
    relative_scale: float = setting(
        10.0,
        "λ of the bounded form, the unit of the learning rate: a step of Adam at rate η changes a weight by about λ·η "
        "of its size, and only the product λ·η matters. With 10, good rates are those usual for LoRA.",
        gt=0,
        needs={"form": "bounded"},
        later=True,
        formerly=1.0,
    )
    relative_limit: float | None = setting(
        0.1,
        "Limit of the relative change ‖ΔW‖ / ‖W0‖ in the bounded form, approached and not passed; None for no limit.",
        gt=0,
        needs={"form": "bounded"},
        later=True,
        formerly=None,
    )
    dropout: float = setting(0.0, "Probability of dropping an entry of a generated matrix in training.", ge=0, lt=1)
    factors: str = setting(
        "independent",
        "'independent': input and output factors differ, with one generator for all weights (the authors' code); "
        "'tied': they are the same tensor, with one generator per last part of the weights' names, such as query and "
        "value (the paper's Eq. 4 and 6).",
        choices=("independent", "tied"),
    )
    factor_bias: bool = setting(
        False,
        "Whether bottlenecks and generated matrices have a trained bias, shared by all weights (official form; the "
        "authors' text code has them).",
        needs={"form": "official"},
        later=True,
    )
    specific_scope: str = setting(
        "module",
        "'module': a pair A, B for every adapted weight; 'layer': one pair per parent module and width, shared by its "
        "q and v.",
        choices=("module", "layer"),
    )
    row_stage: bool = setting(True, "Whether there is a row transformation (Eq. 5).")
    col_stage: bool = setting(True, "Whether there is a column transformation (Eq. 7).")
    init_weights: bool | str = setting(  # type: ignore[assignment]
        True,
        "True: start exactly at the pretrained function; 'paper': the paper's initialisations (init_a, init_b), "
        "which start elsewhere; False: every factor non-zero (for tests).",
        choices=(True, False, "paper"),
    )
    init_gain: float = setting(
        4.0,
        "Norm of the columns of every factor that does not start at zero, unless init_weights='paper'; ΔW is divided "
        "by the gain. With a larger gain, a step of Adam turns these factors less, and training is calmer. In the "
        "bounded form, in units of 1 / relative_scale.",
        gt=0,
    )
    init_shared: str = setting(
        "auto",
        "Initialisation of shared factors. With init_weights='paper': 'trunc_normal' (auto; the authors' image code) "
        "or 'linear' (their text code, as in nn.Linear). Otherwise: 'orthogonal' (auto) or 'svd', the leading singular "
        "vectors of all adapted weights together, if these have values when the adapter is created.",
        choices=("auto", "trunc_normal", "linear", "orthogonal", "svd"),
        later=True,
    )
    init_a: str = setting("kaiming_uniform", "Initialisation of A if init_weights='paper'.", choices=PAPER_INITS)
    init_b: str = setting("zeros", "Initialisation of B if init_weights='paper'.", choices=PAPER_INITS)
    transpose_delta: bool = setting(
        True,
        "False adds the generated (i, o) matrix untransposed, as the authors' text code does; square W0 only.",
    )
    plan: str = setting(
        "auto",
        "How the layers are computed: 'factored' (thin products added to W0 x; needs no activation on the last "
        "generated matrix and no dropout), 'materialised' (through W0 + ΔW), 'beside' (W0 x + ΔW x), or 'auto' (the "
        "cheapest for each call).",
        choices=PLANS,
    )

    def __new__(cls, *args: Any, **settings: Any) -> GenFTConfig:
        if is_official(settings):  # from peft's PeftConfig, which does not say from which folder
            raise AdapterFileError(what_it_is("FOLDER", settings.get("base_model_name_or_path")))
        return super().__new__(cls, *args, **settings)

    @classmethod
    def from_json_file(cls, path_json_file: str, **kwargs: Any) -> dict[str, Any]:
        content: dict[str, Any] = super().from_json_file(path_json_file, **kwargs)
        if is_official(content):
            raise AdapterFileError(what_it_is(Path(path_json_file).parent, content.get("base_model_name_or_path")))
        return content

    @property
    def default_scope(self) -> str:
        return self.scope

    @property
    def last_activation(self) -> tuple[str, str]:
        """(setting, value) of the activation on the last generated matrix."""
        name = "act_outer" if self.form == "official" else "act_col" if self.col_stage else "act_row"
        return name, getattr(self, name)

    @property
    def start_norm(self) -> float:
        """Norm of the columns of factors that do not start at zero; 1 if they start as the paper's do."""
        if self.init_weights == "paper":
            return 1.0
        return self.init_gain / self.relative_scale if self.form == "bounded" else self.init_gain

    @property
    def is_generated(self) -> bool:
        """Whether ΔW is generated from W0; it is not in the authors' text code without shared columns."""
        return not (self.form == "official" and self.ratio_power == 1 and self.shared_dim == 0)

    def problems(self) -> list[str]:
        problems = super().problems()
        if not problems and self.shared_dim + self.specific_dim == 0:
            problems.append("shared_dim, specific_dim: both are 0, so nothing would be trained; make one positive")
        if not (self.row_stage or self.col_stage):
            problems.append("row_stage, col_stage: both are off, so there is no update; switch one on")
        if not self.transpose_delta and not self.col_stage:
            problems.append("transpose_delta: False needs the column stage; without it nothing is transposed")
        problems += self._form_problems() + self._start_problems()
        return problems

    def _form_problems(self) -> list[str]:
        """Problems with settings that have no effect in this form."""
        former = former_values(fields(self))
        without_effect = {f.name: (f.default, former.get(f.name, f.default)) for f in fields(self)}
        needed = {f.name: f.metadata.get("needs", {}).get("form", self.form) for f in fields(self)}
        foreign = [(name, form) for name, form in needed.items() if form != self.form]
        if self.form == "official":
            foreign += [("act_row", "paper"), ("act_col", "paper")]
        if self.form == "bounded":
            foreign.append(("scaling", "paper"))
        instead = {"act_row": "act_inner", "act_col": "act_outer", "scaling": "relative_scale"}
        problems = [
            f"{name}: has no meaning with form={self.form!r}; "
            + (f"use {instead[name]}" if name in instead else f"use form={form!r}")
            for name, form in foreign
            if getattr(self, name) not in without_effect[name]
        ]
        if self.form == "official" and self.factors == "tied":
            problems.append("factors: 'tied' has no meaning with form='official', whose factors are independent")
        if self.form == "bounded" and self.init_weights == "paper":
            problems.append("init_weights: 'paper' has no meaning with form='bounded'; use True")
        return problems

    def _start_problems(self) -> list[str]:
        problems = []
        allowed = ("auto", "trunc_normal", "linear") if self.init_weights == "paper" else ("auto", "orthogonal", "svd")
        if self.init_shared not in allowed:
            problems.append(
                f"init_shared: received {self.init_shared!r}; "
                f"allowed with init_weights={self.init_weights!r}: {', '.join(allowed)}"
            )
        if self.init_weights is not True:
            return problems
        name, last = self.last_activation
        if last == "relu":
            problems.append(
                f"{name}: 'relu' has no gradient at 0, so training could never leave the identity start; "
                "use init_weights='paper' or another activation, such as 'leaky_relu'"
            )
        if self.factors == "tied" and self.shared_dim > 0:
            problems.append(
                "factors: 'tied' cannot start at the pretrained function (a zero output factor is a zero input "
                "factor); use init_weights='paper' or factors='independent'"
            )
        return problems
