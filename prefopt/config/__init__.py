"""The config of a run: one file a section, each validated before anything is loaded."""

from prefopt.config.checkpoints import CheckpointsConfig as CheckpointsConfig
from prefopt.config.data import DataConfig as DataConfig
from prefopt.config.data import PartConfig as PartConfig
from prefopt.config.evaluation import EvaluationConfig as EvaluationConfig
from prefopt.config.loss import LossConfig as LossConfig
from prefopt.config.model import AdapterConfig as AdapterConfig
from prefopt.config.model import ModelConfig as ModelConfig
from prefopt.config.plugins import PluginConfig as PluginConfig
from prefopt.config.reading import as_values as as_values
from prefopt.config.reading import load_config as load_config
from prefopt.config.reading import parse_config as parse_config
from prefopt.config.reading import to_yaml as to_yaml
from prefopt.config.reading import with_digests as with_digests
from prefopt.config.reference import ReferenceConfig as ReferenceConfig
from prefopt.config.run import RunConfig as RunConfig
from prefopt.config.schema import json_schema as json_schema
from prefopt.config.tracking import TrackingConfig as TrackingConfig
from prefopt.config.training import TrainingConfig as TrainingConfig
