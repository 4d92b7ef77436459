"""Registers stages/config.py with Hydra. DVC loads this folder before it composes conf/."""

from hydra.core.config_store import ConfigStore

from stages.config import Config

ConfigStore.instance().store(name="schema", node=Config)
