"""The parameters of the pipeline: a module for each section of params.yaml, with types, units, ranges and checks.

People edit conf/. `make params` composes it, checks it against these dataclasses and writes params.yaml, which the
stages read by `config.load()`. Parameters are tracked by value, so this folder is no dependency of any stage: nothing
here computes a part of a result (a test checks that).
"""

from stages.config.benchmark import Benchmark
from stages.config.data import CheckMasks, CheckSplits, Data, Format, OnError, SmallSegments, Source, Splits
from stages.config.deploy import PLUGIN_VARIANTS, Deploy, GraphKind, Resize, Variant
from stages.config.model import LABEL_MAP, Backbone, Mode, Model, SwinType
from stages.config.precision import LowerPrecision, Precision
from stages.config.reading import RULES, find_target, load, parse_deploy, parse_target, plain
from stages.config.report import Report
from stages.config.root import Config
from stages.config.rules import Range, is_name, name_rule, ranges, require
from stages.config.sample import Sample
from stages.config.targets import CPU_BUILDERS, TILE, Builder, Device, Target, Typing, Verbosity
from stages.config.train import (
    CONTAINER_RUNNERS,
    Container,
    Keep,
    Monitor,
    Runner,
    Scheduler,
    Strategy,
    Train,
    TrainingPrecision,
)
from stages.config.verify import Verify

__all__ = [
    "CONTAINER_RUNNERS",
    "CPU_BUILDERS",
    "LABEL_MAP",
    "PLUGIN_VARIANTS",
    "RULES",
    "TILE",
    "Backbone",
    "Benchmark",
    "Builder",
    "CheckMasks",
    "CheckSplits",
    "Config",
    "Container",
    "Data",
    "Deploy",
    "Device",
    "Format",
    "GraphKind",
    "Keep",
    "LowerPrecision",
    "Mode",
    "Model",
    "Monitor",
    "OnError",
    "Precision",
    "Range",
    "Report",
    "Resize",
    "Runner",
    "Sample",
    "Scheduler",
    "SmallSegments",
    "Source",
    "Splits",
    "Strategy",
    "SwinType",
    "Target",
    "Train",
    "TrainingPrecision",
    "Typing",
    "Variant",
    "Verbosity",
    "Verify",
    "find_target",
    "is_name",
    "load",
    "name_rule",
    "parse_deploy",
    "parse_target",
    "plain",
    "ranges",
    "require",
]
