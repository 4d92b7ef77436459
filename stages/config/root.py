"""All parameters as one dataclass, Config, and the rules between sections."""

from dataclasses import dataclass, field

from stages.config.benchmark import Benchmark
from stages.config.data import Data
from stages.config.deploy import Deploy
from stages.config.model import Mode, Model, SwinType
from stages.config.report import Report
from stages.config.rules import is_name, name_rule, require
from stages.config.sample import Sample
from stages.config.targets import Target
from stages.config.train import CONTAINER_RUNNERS, Runner, Train
from stages.config.verify import Verify


@dataclass
class Config:
    """The keys at the top of params.yaml."""

    profile: str = "sample"
    """Name of the profile that params.yaml was composed from: a file of conf/profile."""
    sample: Sample = field(default_factory=Sample)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    deploy: Deploy = field(default_factory=Deploy)
    targets: dict[str, Target] = field(default_factory=dict)
    """Targets by id (a-z A-Z 0-9 _ -), one or more. An engine is built for each."""
    runnable: list[str] = field(default_factory=list)
    """Targets whose engines this workspace can run. These are verified and benchmarked."""
    verify: Verify = field(default_factory=Verify)
    benchmark: Benchmark = field(default_factory=Benchmark)
    report: Report = field(default_factory=Report)
    overrides: list[str] = field(default_factory=list)
    """Hydra overrides on top of the profile, from OVERRIDES or `dvc exp run -S`. Later commands use both again."""

    def __post_init__(self) -> None:
        require(is_name(self.profile, "._-/"), "profile", name_rule("._-/"), self.profile)
        require(bool(self.targets), "targets", "one target or more", self.targets)
        for name, target in self.targets.items():
            target.check(name)
            self._check_graph(name, target)
        imported = self.train.runner is Runner.imported
        require(bool(self.model.weights) or not imported, "model.weights", "a path for train.runner: import", "")
        custom = self.model.backbone.type is SwinType.custom and self.train.runner in CONTAINER_RUNNERS
        rule = f"one of TAO's own for train.runner: {self.train.runner.value}"
        require(not custom, "model.backbone.type", rule, SwinType.custom.value)
        for name, source in self.data.sources.items():
            rule = f"1 for train.runner: {self.train.runner.value}: TAO has none"
            alone = source.repeat == 1 or self.train.runner not in CONTAINER_RUNNERS
            require(alone, f"data.sources.{name}.repeat", rule, source.repeat)
        learned, wanted = self.model.mode, self.deploy.mode
        rule = f"{learned.value}, which the network learns (model.mode)"
        require(learned in (Mode.panoptic, wanted), "deploy.mode", rule, wanted.value)
        for name in self.runnable:
            require(name in self.targets, "runnable", f"among the targets {sorted(self.targets)}", name)

    def _check_graph(self, name: str, target: Target) -> None:
        variants = [variant.value for variant in self.deploy.variants]
        variant = target.variant.value
        require(variant in variants, f"targets.{name}.variant", f"among deploy.variants {variants}", variant)
        lower = [precision.value for precision in self.deploy.lower_precisions]
        precision = target.precision.value
        rule = f"fp32 or among deploy.lower_precisions {lower}"
        require(precision in ("fp32", *lower), f"targets.{name}.precision", rule, precision)
